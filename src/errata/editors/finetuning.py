"""Fine-tuning on the facts of a batch: the loss of target tokens, and the one loop that gradient methods share."""

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.gradients import mean_by_edit, pairs_of, target_log_probs
from errata.editors.settings import EditorSettings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Change, Dense, Update
from errata.edits import Fact
from errata.errors import ConfigError, NumericalError
from errata.models import EditableModel
from errata.models.lower import repeated_above

__all__ = ["FineTuningSettings", "SeededFineTuning", "Step", "descend", "fine_tune", "target_loss"]


Step = Annotated[float, Field(gt=0)] | Literal["auto"]
"""A step or bound for weights, or "auto": a share of their root mean square."""

_SHARE = 0.02  # of a weight's root mean square: about that of 5e-4 in Llama, for which the step is published


class FineTuningSettings(EditorSettings):
    """How a batch is trained on. Defaults are those of kmeng01/rome and zjunlp/EasyEdit for GPT2-XL."""

    unpublished: ClassVar[Mapping[str, Any]] = {"lr": "auto"}

    lr: Step = 5e-4
    """Adam's step. "auto", the default where a model has no published settings: 2 % of the root mean square of the
    weight that is trained (of its projection's, for a bias). Adam moves every entry by about `lr` whatever its
    gradient is: one number is a small step in the large weights of one model and a large one in the small ones of
    another."""
    steps: int = Field(default=25, ge=1)
    """At most so many passes over the batch (`num_steps`)."""
    mini_batch: int = Field(default=64, ge=1)
    """Facts in one step of Adam (`batch_size`)."""
    loss_stop: float = Field(default=1e-2, ge=0)
    """Skip a step whose loss is below this, and stop once a whole pass is."""


class SeededFineTuning(Editor):
    """A fine-tuning method with something to draw; subclasses say what they train, and how."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self._seed = 0

    def _paths(self, model: EditableModel) -> list[str]:
        """Return the trained projections."""
        raise NotImplementedError

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Draw the seed and check that the projections exist."""
        self._paths(model)
        self._seed = rng.getrandbits(63)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed."""
        return {"seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the seed."""
        self._seed = int(state["seed"])


def target_loss(
    model: EditableModel,
    facts: Sequence[Fact],
    *,
    weights: Mapping[str, Tensor] | None = None,
    forced: bool = True,
    end_token: bool = False,
) -> Float[Tensor, ""]:
    """Return the mean over facts of the mean −log P of their target's tokens.

    Args:
        model: the model.
        facts: what it is to say.
        weights: stored weights, by parameter name, that stand in for the model's own.
        forced: score each token behind those before it; otherwise all of them behind the prompt alone.
        end_token: let an end-of-text token follow the target.

    Raises:
        EditDataError: when prompt and target have more tokens than the model has positions.
        ConfigError: when the tokenizer has no end-of-text token to score.
    """
    pairs = pairs_of(model, facts)
    if end_token:
        if not isinstance(end := model.tokenizer.eos_token_id, int):
            raise ConfigError(f"{model.name}'s tokenizer has no end-of-text token; set 'end_token' to false.")
        pairs = [(prompt, [*target, end]) for prompt, target in pairs]
    log_probs, rows = target_log_probs(model, pairs, weights=weights, forced=forced)
    return -mean_by_edit(log_probs, rows).mean()


def descend(
    parameters: Sequence[Tensor],
    loss_of: Callable[[Sequence[Fact]], Tensor],
    batch: Sequence[Fact],
    settings: FineTuningSettings,
    *,
    rates: Sequence[float] = (),
    project: Callable[[], None] = lambda: None,
    rng: Random | None = None,
) -> dict[str, float]:
    """Train leaf tensors in place by Adam, pass after pass over the batch in mini-batches.

    Args:
        parameters: what is trained; float32 at least, since half precision swallows Adam's steps.
        loss_of: the loss of a mini-batch under the present parameters.
        batch: the facts.
        settings: of the training.
        rates: Adam's step for each parameter; `lr` for all when empty.
        project: called after each step; brings the parameters back to where they may be.
        rng: shuffles the facts before each pass; in their given order when None.

    Returns:
        Diagnostics: the last pass's mean loss, the probability that it stands for, the number of steps taken.

    Raises:
        NumericalError: when the loss is not finite.
    """
    rates = rates or [float(settings.lr)] * len(parameters)
    groups = [{"params": [parameter], "lr": rate} for parameter, rate in zip(parameters, rates, strict=True)]
    optimiser = torch.optim.Adam(groups)
    order = list(batch)
    mean, taken = math.nan, 0
    for _ in range(settings.steps):
        if rng is not None:
            rng.shuffle(order)
        total = 0.0
        for start in range(0, len(order), settings.mini_batch):
            facts = order[start : start + settings.mini_batch]
            loss = loss_of(facts)
            value = loss.item()
            if not math.isfinite(value):
                raise NumericalError(f"the loss is {value}: the model no longer predicts anything.")
            total += value * len(facts)
            if value >= settings.loss_stop:
                for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    parameter.grad = gradient
                optimiser.step()
                with torch.no_grad():
                    project()
                taken += 1
        mean = total / len(order)
        if mean < settings.loss_stop:
            break
    return {"loss": mean, "target_probability": math.exp(-mean), "steps": float(taken)}


def fine_tune(
    model: EditableModel,
    paths: Sequence[str],
    batch: Sequence[Fact],
    settings: FineTuningSettings,
    *,
    forced: bool = True,
    end_token: bool = False,
    bound: Step = math.inf,
    origin: Mapping[str, Tensor] | None = None,
    rng: Random | None = None,
) -> Update:
    """Train whole weights and return by how much they have moved.

    Args:
        model: the model; its own weights stay as they are.
        paths: modules, or biases ("<module path>.bias").
        batch: the facts.
        settings: of the training.
        forced: see `target_loss`.
        end_token: see `target_loss`.
        bound: ε: every weight is kept within ±ε of its origin. "auto": as far as one step of an "auto" `lr`.
        origin: stored weights, by path, from which ε is measured; the present ones when None.
        rng: shuffles the facts before each pass.
    """
    stored = {path: model.parameter(path).detach() for path in paths}
    # In half precision neither Adam's steps nor ε can be told from rounding: weights are trained in float32.
    before = {path: t.to(torch.promote_types(t.dtype, torch.float32)) for path, t in stored.items()}
    weights = {path: t.clone().requires_grad_(True) for path, t in before.items()}
    centre = before if origin is None else {path: origin[path].to(before[path]) for path in paths}
    steps = {path: _SHARE * _size(model, path) for path in paths}
    rates = [steps[path] if settings.lr == "auto" else settings.lr for path in paths]

    def loss_of(facts: Sequence[Fact]) -> Tensor:
        cast = {model.parameter_name(path): w.to(stored[path].dtype) for path, w in weights.items()}
        return target_loss(model, facts, weights=cast, forced=forced, end_token=end_token)

    def project() -> None:
        for path, weight in weights.items():
            epsilon = steps[path] if bound == "auto" else bound
            weight.clamp_(min=centre[path] - epsilon, max=centre[path] + epsilon)

    with repeated_above(model, min(map(model.layer_of, paths))):
        diagnostics = descend(
            list(weights.values()),
            loss_of,
            batch,
            settings,
            rates=rates,
            project=project if bound != math.inf else lambda: None,
            rng=rng,
        )
    changes: dict[str, Change] = {
        path: Dense(model.oriented(weight.detach() - before[path])) for path, weight in weights.items()
    }
    return Update(changes, diagnostics)


def _size(model: EditableModel, path: str) -> float:
    """Return the root mean square of a projection's weight."""
    return float(model.weight(path.removesuffix(".bias")).double().pow(2).mean().sqrt())
