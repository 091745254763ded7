"""Run a case batch after batch and compare keys, values and changes of weights."""

import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.registry import editor_class
from errata.editors.statistics import SecondMoment, StatisticsStore
from errata.editors.text_source import TextSource
from errata.editors.update import LowRank, Update
from errata.edits import Fact
from errata.errors import ConfigError, ParityError
from errata.models import EditableModel
from errata.parity.case import Case
from errata.parity.counterpart import Comparison, Counterpart, compare
from errata.parity.scores import compare_scores
from errata.trajectory import Trajectory

__all__ = ["CaseStatistics", "closed_form", "in_sequence", "past_keys", "prepared"]


class CaseStatistics(StatisticsStore):
    """Give the covariances that lie beside a case.

    Args:
        case: the case.
        rounded: give them in float32 whatever the precision of the run.
    """

    def __init__(self, case: Case, rounded: bool = False) -> None:
        super().__init__()
        self._case, self._rounded = case, rounded

    def second_moments(self, model: EditableModel, layers: Sequence[int], source: TextSource) -> list[SecondMoment]:
        """Return C of each layer's output projection as the authors' run had it."""
        found = self._case.moments(self._rounded)
        if missing := [path for path in map(model.mlp_out, layers) if path not in found]:
            raise ParityError(f"{self._case}: the covariance file beside it lacks {', '.join(missing)}.")
        # How much text is behind them is not recorded: as much as inverting takes.
        return [SecondMoment(C, len(C)) for C in (found[model.mlp_out(layer)] for layer in layers)]


class _Watched(Trajectory):
    """A trajectory that keeps the last update with its details, which a journal does not hold."""

    def propose(self, batch: Sequence[Fact], setting: int = 0) -> Update:
        self.seen = self.editor.propose(self.model, batch)
        return self.seen.to(self._precision)


def prepared(case: Case, counterpart: Counterpart, model: EditableModel) -> _Watched:
    """Return a trajectory of our method under the case's settings, contexts and covariances."""
    last = model.n_layers - 1
    if case.hparams.get("v_loss_layer", last) != last:
        raise ParityError(f"{case}: v_loss_layer is {case.hparams['v_loss_layer']}; ours is the last, {last}.")
    cls = editor_class(counterpart.method)
    try:
        settings = cls.Settings.model_validate(counterpart.settings(case))
    except KeyError as e:
        raise ParityError(f"{case}: its hparams lack {e}, which {counterpart.method} needs.") from e
    except ValueError as e:
        raise ConfigError(f"{case}: its hparams are no settings of {counterpart.method}: {e}") from e
    editor = counterpart.editor(case, settings) if counterpart.editor else cls(settings)
    editor.prepare(model, CaseStatistics(case, counterpart.rounded_covariance), Random(0))
    state = editor.state_dict()
    if "templates" in state:
        if (templates := case.templates()) is None:
            raise ParityError(f"{case}: its json has no context_templates, which {counterpart.method} needs.")
        editor.load_state_dict({**state, "templates": templates})
    return _Watched(model, editor)


def in_sequence(case: Case, counterpart: Counterpart, unit: str = "edit") -> Iterator[Comparison]:
    """Yield the comparisons of every batch, then of the final weights.

    Args:
        case: the case.
        counterpart: what it is compared with.
        unit: what the case calls a batch: changes are named "<unit>N.dW.<parameter>".

    Raises:
        ParityError: when a batch could not be edited, or the file lacks its changes of weights.
    """
    model = case.load_model()
    trajectory = prepared(case, counterpart, model)
    tolerance = counterpart.tolerance(case)
    observe = counterpart.observe or closed_form
    parameters = dict(model.model.named_parameters())
    base = {name: parameters[name].detach().clone() for name in _edited(case, parameters, unit)}
    yield from compare_scores(case, "eval_before", model, tolerance)
    for n, batch in enumerate(case.batches()):
        before = {name: parameters[name].detach().clone() for name in base}
        (entry, *_) = trajectory.advance(batch)
        if not entry.applied:
            raise ParityError(f"{case}: batch {n} was {entry.status}: {entry.verdict}")
        for name, ours, theirs in observe(case, n, trajectory.seen, model):
            yield compare(case, name, ours, theirs, tolerance)
        prefix = f"{unit}{n}.dW."
        changed = [name.removeprefix(prefix) for name in case.tensors if name.startswith(prefix)]
        if not changed:
            raise ParityError(f"{case}: {case.precision}.safetensors has no {prefix}*, the changes of batch {n}.")
        for name in changed:
            yield compare(case, prefix + name, parameters[name] - before[name], case.tensor(prefix + name), tolerance)
        yield from compare_scores(case, f"{unit}{n}.eval", model, tolerance)
    for name, start in base.items():
        if (end := case.tensors.get(f"final.{name}")) is not None:
            yield compare(case, f"final.{name}", parameters[name], end, tolerance, end.double() - start.double())
    if counterpart.finish is not None:
        for name, ours, theirs in counterpart.finish(case, trajectory):
            yield compare(case, name, ours, theirs, tolerance)


def closed_form(case: Case, n: int, update: Update, model: EditableModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield names, ours and theirs of the keys, values and rank-one factors of batch `n`, as far as both have them.

    `details` holds "keys|<path>" and "values", a row a fact. Of several calls for a layer's keys the first counts.
    """
    seen = update.details
    prefix = f"edit{n}."
    theirs = {name.removeprefix(prefix): t for name, t in case.tensors.items() if name.startswith(prefix)}
    calls: dict[int, int] = {}
    for name in theirs:
        if match := re.fullmatch(r"K\.call(\d+)\.layer(\d+)", name):
            call, layer = map(int, match.groups())
            calls[layer] = min(call, calls.get(layer, call))
        elif (match := re.fullmatch(r"z_star(\d+)", name)) and "values" in seen:
            yield prefix + name, seen["values"][int(match[1])], theirs[name]
    for layer, call in calls.items():
        if (path := f"keys|{model.mlp_out(layer)}") in seen:
            name = f"K.call{call}.layer{layer}"
            yield prefix + name, seen[path], theirs[name]
    yield from _rank_one(prefix, theirs, update)


def past_keys(trajectory: Trajectory, path: str) -> Float[Tensor, "in in"]:
    """Return K_pK_pᵀ of a module from what its editor was given to remember."""
    journal = trajectory.journal
    keys = torch.cat([journal.update(step).memory[path].double() for step in journal.active_steps()], 1)
    return keys @ keys.T


def _rank_one(prefix: str, theirs: Mapping[str, Tensor], update: Update) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield ROME's k*, u, v and v*, which its code has only as v* = W k + v (k · u)."""
    if len(update.changes) != 1:
        return
    ((path, change),) = update.changes.items()
    seen = update.details
    if "k_star" in theirs and f"keys|{path}" in seen:
        yield f"{prefix}k_star", seen[f"keys|{path}"][0], theirs["k_star"]
    if {"left", "right"} <= theirs.keys() and isinstance(change, LowRank) and change.right.shape[0] == 1:
        u, v = theirs["left"], theirs["right"]  # u stands on the left in Conv1D's (in, out) layout
        yield f"{prefix}left", change.right[0], u
        yield f"{prefix}right", change.left[:, 0], v
        if f"divisors|{path}" in seen:
            key, output = (seen[f"{part}|{path}"][0].double() for part in ("divisors", "outputs"))
            yield f"{prefix}v_star", seen["values"][0], output + v.double() * (key @ u.double())


def _edited(case: Case, parameters: dict[str, torch.nn.Parameter], unit: str) -> list[str]:
    """Return the parameters that the case says were changed."""
    matches = (re.match(rf"(?:{unit}\d+\.dW|final)\.(.+)", name) for name in case.tensors)
    names = dict.fromkeys(match[1] for match in matches if match)
    if unknown := [name for name in names if name not in parameters]:
        raise ParityError(f"{case}: its file changes {', '.join(unknown)}, which ../model does not have.")
    return list(names)
