"""What closed-form methods share: settings, contexts, values, and the regularisers laid over them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.contexts import ContextSettings, sample_contexts
from errata.editors.keys import FactToken
from errata.editors.regularisers import AnySettings, regulariser
from errata.editors.settings import EditorSettings
from errata.editors.statistics import SecondMoment, StatisticsStore
from errata.editors.subjects import subject_keys
from errata.editors.text_source import TextSource
from errata.editors.update import Change, Update, overlay
from errata.editors.value_settings import FAST_PREFIXES
from errata.editors.values import TargetValue, ValueSettings, optimise_values
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["ClosedForm", "ClosedFormSettings", "RidgeSettings"]


class ClosedFormSettings(EditorSettings):
    """What ROME, MEMIT and their kin have in common."""

    value: ValueSettings = ValueSettings()
    """How v* is optimised."""
    contexts: ContextSettings = ContextSettings()
    """Prefixes over which keys are averaged and under which v* is optimised."""
    statistics: TextSource = TextSource()
    """Text behind the covariance C."""
    subjects: float = Field(default=0.0, ge=0)
    """β: C + β·mean(k kᵀ) over the keys of some 300 made-up subjects stands for C. Text is mostly not subjects; an edit
    leaks into other facts through what the keys of all subjects have in common, and this keeps that. 0 as published;
    1 where a model has no published settings (docs/real-models.md)."""
    fact_token: FactToken = "subject_last"
    """The token whose key stands for the fact: the subject's last (2202.05262 §3.1, all published settings), its
    first, the one after it, or the prompt's last. "last_padded" is kmeng01/rome's form of "last": the last position
    of the padded batch, which for all but the longest prompt is padding."""
    fast: bool = False
    """The fast mode: v* is optimised under the bare prompt and two prefixes alone, until the object is the most
    probable under all three (ENCORE's finding, 2502.01636) and six steps more where the method has no stop of its own,
    or until the loss has settled with δ at its bound; matrices are read in bfloat16 where the device multiplies in it.
    Keys are averaged over all prefixes still. In no published code; what it gains and costs is measured in
    docs/performance.md."""
    regularise: tuple[AnySettings, ...] = ()
    """What is laid over the method, in this order: `{name: rect, keep: 0.4}`, say. None in the published methods."""

    @field_validator("regularise")
    @classmethod
    def _in_order(cls, parts: tuple[AnySettings, ...]) -> tuple[AnySettings, ...]:
        names = [part.name for part in parts]
        if len(set(names)) < len(names):
            raise ValueError(f"each regulariser may be there once, found {names}")
        if "prune" in names[:-1]:
            raise ValueError(f"prune restrains what the others have left and must come last, found {names}")
        return parts


class RidgeSettings(ClosedFormSettings):
    """What methods that solve with C have in common beside."""

    ridge: float = Field(default=0.0, ge=0)
    """Added to C as a fraction of its mean diagonal. 0 in the published code; 1e-3 for the lab, whose text leaves
    directions of key space nearly unseen."""


class ClosedForm(Editor):
    """A method whose update solves an equation for given keys and values; subclasses say which, in `_update`.

    `_optimised` gives v*, and `propose` hands the finished update to the regularisers: everything else is the method's.
    """

    settings: ClosedFormSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self._templates: list[str] = []
        self._regularisers = [regulariser(s) for s in self.settings.regularise]

    def _layers(self) -> Sequence[int]:
        """Return the edited layers."""
        raise NotImplementedError

    def _second_moments(
        self, model: EditableModel, statistics: StatisticsStore, layers: Sequence[int]
    ) -> list[SecondMoment]:
        """Return C of each layer, with the keys of subjects where they count."""
        s = self.settings
        moments = statistics.second_moments(model, layers, s.statistics)
        if not s.subjects:
            return moments
        keys = subject_keys(model, layers, s.fact_token)
        paths = [model.mlp_out(layer) for layer in layers]
        return [moment.with_keys(keys[path], s.subjects) for path, moment in zip(paths, moments, strict=True)]

    def _update(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return what the method's own equation asks for."""
        raise NotImplementedError

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Sample the context prefixes, and let the regularisers see the unedited model."""
        for layer in self._layers():
            model.mlp_out(layer)  # names a layer that the model does not have before anything is computed
        self._templates = sample_contexts(model, self.settings.contexts, rng)
        for part in self._regularisers:
            part.prepare(model, self._layers(), self.settings.value, statistics)

    @contextmanager
    def seeing(self, model: EditableModel) -> Iterator[None]:
        """Show the model as the next edit is to see it: its weights, and what the regularisers lay over them."""
        with ExitStack() as stack:
            for part in self._regularisers:
                stack.enter_context(overlay(model, part.unseen()))
            yield

    def _seen(self, model: EditableModel, path: str) -> Float[Tensor, "out in"]:
        """Return W as `seeing` shows it, in float64."""
        weight = model.weight(path).to(torch.float64, copy=True)
        for part in self._regularisers:
            if path in (unseen := part.unseen()):
                unseen[path].add_to(weight)
        return weight

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return the method's update as its regularisers leave it."""
        with self.seeing(model):
            update = self._update(model, batch)
        for part in self._regularisers:
            update = part.update(model, update)
        return update

    def _optimised(
        self,
        model: EditableModel,
        batch: Sequence[Fact],
        layer: int,
        site: Literal["mlp", "block"],
        templates: Sequence[str],
    ) -> list[TargetValue]:
        """Return v* (or z*) of every fact, as the regularisers leave it."""
        value, seen = self._in_loop(templates)
        adjust = self._adjusted if self._regularisers else None
        return optimise_values(model, batch, layer, site, seen, value, adjust, self.settings.fact_token)

    def _in_loop(self, templates: Sequence[str]) -> tuple[ValueSettings, Sequence[str]]:
        """Return how values are optimised, and under which of the templates, of which the first is the bare one."""
        s = self.settings
        return (s.value.hurried(), templates[: 1 + FAST_PREFIXES]) if s.fast else (s.value, templates)

    def _adjusted(self, value: Tensor, initial: Tensor) -> Tensor:
        """Return what the regularisers let stand for v* = v₀ + δ."""
        for part in self._regularisers:
            value = part.value(value, initial)
        return value

    def _filtered(self, path: str, change: Change) -> Change:
        """Return the change of one module as the regularisers leave it before the layers above are computed."""
        for part in self._regularisers:
            change = part.change(path, change)
        return change

    def remember(self, update: Update) -> None:
        """Let the regularisers know what has been applied."""
        for part in self._regularisers:
            part.remember(update)

    def state_dict(self) -> dict[str, Any]:
        """Return the sampled prefixes, and what the regularisers remember."""
        parts = {f"regularise|{i}|{k}": v for i, p in enumerate(self._regularisers) for k, v in p.state_dict().items()}
        return {"templates": list(self._templates), **parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sampled prefixes and the regularisers' memory."""
        self._templates = list(state["templates"])
        for i, part in enumerate(self._regularisers):
            prefix = f"regularise|{i}|"
            part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
