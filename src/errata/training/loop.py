"""The training loop that all trainable methods share: steps, measurements, checkpoints, resumption."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from errata.editors.registry import editor_class, editors, merge
from errata.edits import EditStream, Fact
from errata.errors import ConfigError, EditDataError, NumericalError, ResumeError, RunError
from errata.models import EditableModel, check_answers, deviation, identity_of
from errata.training.base import Trainable, TrainingSettings
from errata.training.checkpoint import NETWORK, Checkpoint, read_tensors, write_tensors
from errata.training.examples import draw_examples
from errata.validation import explain

__all__ = ["TrainingRun", "train", "trainable_class"]

Progress = Callable[[int, int, Mapping[str, float]], None]

_RESUME = "resume.safetensors"


def trainable_class(name: str) -> type[Trainable]:
    """Return the trainable method called `name`.

    Raises:
        ConfigError: when there is no such method, or it needs no training.
    """
    cls = editor_class(name)
    if not hasattr(cls, "Training"):
        known = ", ".join(n for n, c in editors().items() if hasattr(c, "Training"))
        raise ConfigError(f"{name} needs no training; methods that do: {known}.")
    return cast(type[Trainable], cls)


def resolve_training(cls: type[Trainable], model: EditableModel, chosen: Mapping[str, Any]) -> TrainingSettings:
    """Resolve the settings of a training: the method's defaults < the section `train` of the model's own
    `editing.json` < the user's choice.

    Raises:
        ConfigError: when a setting is unknown or out of range.
    """
    recommended: Any = model.settings.get("train", {}).get(cls.name, {})
    defaults = {
        k: f.default.model_dump() for k, f in cls.Training.model_fields.items() if hasattr(f.default, "model_dump")
    }
    try:
        return cls.Training.model_validate(merge(merge(defaults, recommended), chosen))
    except ValidationError as e:
        raise ConfigError(explain(e, cls.Training, f"training ({cls.name})")) from e


@dataclass(frozen=True)
class TrainingRun:
    """The outcome of a training.

    Args:
        folder: where the network is.
        step: of the network that is kept.
        figures: its measurements.
        steps: how many were made.
    """

    folder: Path
    step: int
    figures: Mapping[str, float]
    steps: int


def train(
    name: str,
    model: EditableModel,
    facts: Sequence[Fact],
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainingRun:
    """Train a method's network for a model; every edit of the training is made on the unedited model.

    Whatever is random at a step depends on seed and step alone, so that a training which was interrupted and goes on
    gives the same network, bit for bit on a CPU, as one which was not.

    Args:
        name: a trainable method.
        model: the model, which stays as it is.
        facts: what to train on.
        out: the directory to write.
        settings: over those resolved for the model.
        seed: of the network and of the draws.
        resume: go on from the last checkpoint in `out`.
        progress: called with the step, the number of steps, and figures, after every step.

    Raises:
        RunError: when `out` holds a training already and `resume` is not set.
        ResumeError: when there is nothing to go on with, or model, facts or settings are others.
    """
    cls = trainable_class(name)
    return _Loop(cls, model, facts, out, resolve_training(cls, model, settings or {}), seed).go(resume, progress)


class _Loop:
    def __init__(
        self,
        cls: type[Trainable],
        model: EditableModel,
        facts: Sequence[Fact],
        out: Path,
        settings: TrainingSettings,
        seed: int,
    ) -> None:
        check_answers(model)
        self.cls, self.model, self.out, self.settings, self.seed = cls, model, out, settings, seed
        mixed = Random(f"{seed}-facts").sample(list(facts), len(facts))
        self.held, self.facts = mixed[: settings.validation], mixed[settings.validation :]
        if len(self.facts) < max(2, settings.examples.facts + 1):
            raise EditDataError(
                f"{len(facts)} facts, of which {settings.validation} are kept for validation, are too few to train "
                f"{cls.name}. Give more, or set validation lower."
            )
        self.belongs: dict[str, Any] = {
            "method": cls.name,
            "seed": seed,
            "model": str(identity_of(model)),
            "facts": EditStream(tuple(facts)).fingerprint(),
            "settings": {
                k: v for k, v in settings.model_dump(mode="json").items() if k not in ("steps", "checkpoint_every")
            },
        }
        generator = torch.Generator().manual_seed(seed)
        self.network = cls.network(model, settings, generator).to(model.device)
        self.optimiser = torch.optim.Adam(cls.parameter_groups(self.network, settings), lr=settings.lr)
        self.step = 0
        self.best = Checkpoint(cls.name, model.name, self.belongs["model"], settings.model_dump(mode="json"), 0, {})

    def go(self, resume: bool, progress: Progress | None) -> TrainingRun:
        """Train from where the directory stands to the last step."""
        if resume:
            self._load()
        elif (self.out / _RESUME).exists() or (self.out / NETWORK).exists():
            raise RunError(f"{self.out} holds a training already. Go on with it (--resume), or name another --out.")
        s = self.settings
        while self.step < s.steps:
            figures = self._advance()
            last = self.step == s.steps
            if self.held and (self.step % s.validate_every == 0 or last):
                figures |= self._validate()
            elif not self.held and (self.step % s.checkpoint_every == 0 or last):
                self._keep({})
            if self.step % s.checkpoint_every == 0 or last:
                self._save()
            if progress:
                progress(self.step, s.steps, figures)
        if not (self.out / NETWORK).exists():
            raise NumericalError(
                "the loss on the facts kept for validation was never finite: no network was kept. Lower lr and its kin."
            )
        return TrainingRun(self.out, self.best.step, self.best.figures, self.step)

    def _advance(self) -> dict[str, float]:
        """Take one step and return its figures."""
        s = self.settings
        examples = draw_examples(self.facts, s.edits_per_step, s.examples, Random(f"{self.seed}-step-{self.step}"))
        self.network.train()
        loss, figures = self.cls.loss(self.network, self.model, s, examples)
        if not math.isfinite(loss.item()):
            raise NumericalError(f"the training loss is {loss.item()} at step {self.step + 1}. Lower lr and its kin.")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), s.grad_clip)
        self.optimiser.step()
        self.step += 1
        return {"loss": loss.item(), **figures}

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Measure on the facts kept back, and keep the network if it is the best so far."""
        s = self.settings
        examples = draw_examples(
            self.held, max(1, len(self.held) // s.examples.facts), s.examples, Random(f"{self.seed}-held")
        )
        self.network.train(False)
        sums: dict[str, float] = {}
        for i in range(0, len(examples), s.edits_per_step):
            part = examples[i : i + s.edits_per_step]
            loss, figures = self.cls.loss(self.network, self.model, s, part)
            for name, value in {"loss": loss.item(), **figures}.items():
                sums[f"held.{name}"] = sums.get(f"held.{name}", 0.0) + value * len(part) / len(examples)
        if sums["held.loss"] < self.best.figures.get("held.loss", math.inf):
            self._keep(sums)
        return sums

    def _keep(self, figures: Mapping[str, float]) -> None:
        """Write the present network as the training's result."""
        self.best = Checkpoint(
            self.best.method, self.best.model, self.best.fingerprint, self.best.settings, self.step, dict(figures)
        )
        self.best.save(self.out, self.network)

    def _save(self) -> None:
        """Write what is needed to go on: network, Adam's moments, and what the best network so far measured."""
        tensors: dict[str, Tensor] = {f"network|{k}": v for k, v in self.network.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam|{i}|{k}": v for k, v in state.items()}
        best = {"step": self.best.step, "figures": self.best.figures}
        write_tensors(self.out / _RESUME, tensors, {"belongs": self.belongs, "step": self.step, "best": best})

    def _load(self) -> None:
        """Take up the last checkpoint."""
        file = self.out / _RESUME
        if not file.is_file():
            raise ResumeError(
                f"there is no {file}, no checkpoint to go on with. Start without --resume, in a new --out."
            )
        try:
            tensors, found = read_tensors(file)
        except (SafetensorError, OSError, ValueError, KeyError) as e:
            raise ResumeError(f"{file} is damaged ({e}). Start anew in another --out.") from e
        if what := deviation(self.model, found["belongs"]["model"]):
            raise ResumeError(
                f"{file} was begun with another model: {what}. Give the same, or start anew in another --out."
            )
        for key, ours in self.belongs.items():
            if key != "model" and found["belongs"][key] != ours:
                raise ResumeError(
                    f"{file} was begun with other {key} ({_short(found['belongs'][key])}) than is given now "
                    f"({_short(ours)}). Give the same, or start anew in another --out."
                )
        self.network.load_state_dict({k.removeprefix("network|"): v for k, v in tensors.items() if k[:8] == "network|"})
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam|"):
                _, i, key = name.split("|")
                states.setdefault(int(i), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": states, "param_groups": groups})
        self.step = found["step"]
        best = found["best"]
        self.best = Checkpoint(
            self.best.method, self.best.model, self.best.fingerprint, self.best.settings, best["step"], best["figures"]
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."
