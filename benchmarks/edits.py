"""Seconds an edit: ROME and r-ROME, MEMIT, AlphaEdit and EMMET, one at a time and in a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.plain import PlainMEMIT, PlainROME
from benchmarks.shapes import Size, random_facts, random_model, text_file
from benchmarks.tables import Table, distance, seconds, spread, times
from errata.editors.closed_form import ClosedForm
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Change, Dense
from errata.edits import Fact
from errata.models import EditableModel
from errata.trajectory import Trajectory

__all__ = ["METHODS", "Bench", "Subject", "batches", "edits_table", "fast_edits", "in_turns", "one_by_one"]

METHODS = ("rome", "r-rome", "memit", "alphaedit", "emmet")
_STATISTICS_TOKENS = 1024
_KINDS = {"plain": "plain", "Errata": "ours", "fast": "fast"}


@dataclass(frozen=True)
class Subject:
    """What is edited: a model of random weights, and facts of words it has never seen.

    Args:
        size: of the model.
        facts: those that are edited, the first to warm up with.
        dtype: of the model.
    """

    size: Size
    facts: Sequence[Fact]
    dtype: torch.dtype = torch.float32

    @classmethod
    def random(cls, size: Size, n: int, dtype: torch.dtype = torch.float32) -> "Subject":
        """Return a subject of n facts beside one to warm up with."""
        return cls(size, random_facts(size, n + 1), dtype)


class Bench:
    """A model with a prepared editor and the plain implementation beside it.

    Args:
        model: fresh.
        method: its name.
        folder: for statistics.
        settings: of the method. Its strength is to be a number: the plain implementation calibrates nothing, and
            counts no subjects in C.
    """

    def __init__(self, model: EditableModel, method: str, folder: Path, settings: Mapping[str, Any]) -> None:
        editor = editor_class(method)(resolve_settings(method, model, {"subjects": 0.0, **settings}))
        assert isinstance(editor, ClosedForm)
        self.model, self.method, self.editor, self.store = model, method, editor, StatisticsStore(folder)
        self.editor.prepare(model, self.store, Random(0))

    @classmethod
    def random(cls, subject: Subject, method: str, folder: Path, **chosen: Any) -> "Bench":
        """Return a bench of a random model, with statistics of random text and the published strength."""
        model = random_model(subject.size, subject.dtype)
        text = text_file(folder, subject.size, _STATISTICS_TOKENS)
        own = editor_class(method).Settings.model_fields
        fixed = {k: own[k].default for k in ("covariance_weight", "identity_weight", "threshold") if k in own}
        settings: dict[str, Any] = {"statistics": {"source": str(text)}, **fixed, **chosen}
        if method == "alphaedit":
            # A random model's keys are short: the published threshold is for keys of length 1 and more.
            settings["threshold_unit"] = "mean"
        else:
            settings["ridge"] = 1e-3
        if method == "emmet":
            settings["layers"] = resolve_settings("memit", model).layers
        return cls(model, method, folder, settings)

    def plain(self) -> PlainROME | PlainMEMIT:
        """Build the yardstick with the same prefixes, statistics and settings."""
        s = self.editor.settings
        templates = self.editor.state_dict()["templates"]
        layers: Sequence[int] = getattr(s, "layers", None) or [s.layer]
        moments = self.store.second_moments(self.model, layers, s.statistics)
        if self.method in ("rome", "r-rome"):
            return PlainROME(self.model, s, templates, moments[0].ridged(s.ridge), self.method == "r-rome")
        if self.method == "alphaedit":
            matrices = self.editor.projectors()
        else:
            matrices = {
                self.model.mlp_out(layer): s.covariance_weight * moment.ridged(s.ridge)
                for layer, moment in zip(layers, moments, strict=True)
            }
        return PlainMEMIT(self.model, s, templates, self.method, matrices)

    def warmed(self, fact: Fact) -> PlainROME | PlainMEMIT:
        """Return the yardstick after it has passed once through all that it does, with two steps a value."""
        plain = self.plain()
        settings = plain.settings
        brief = settings.value.model_copy(update={"steps": 2})
        plain.settings = settings.model_copy(update={"value": brief})
        plain.propose([fact])
        plain.forget()
        plain.settings = settings
        return plain


class _Counted:
    """Count passes through the head: in an edit of ours, the evaluations of the loss."""

    def __init__(self, model: EditableModel) -> None:
        self._head = model.head
        self.passes = 0

    def _count(self, *_: Any) -> None:
        self.passes += 1

    def __enter__(self) -> "_Counted":
        self._handle = self._head.register_forward_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def one_by_one(subject: Subject, methods: Sequence[str], folder: Path, **chosen: Any) -> Table:
    """Edit facts one after another; the plain implementation and Errata take turns on the same weights.

    Args:
        subject: model and facts.
        methods: names.
        folder: for text, statistics and weights.
        chosen: settings of all methods, in place of their defaults.
    """
    measured = []
    for method in methods:
        record = {"size": subject.size.name, "method": method}
        record |= in_turns(Bench.random(subject, method, folder, **chosen), subject.facts)
        fast = Bench.random(subject, method, folder, fast=True, **chosen)
        record["fast"], record["evaluations"]["fast"] = fast_edits(fast, subject.facts)
        measured.append(record)
    return edits_table(f"edits-{subject.size.name}", measured)


def in_turns(bench: Bench, facts: Sequence[Fact]) -> dict[str, Any]:
    """Return the seconds of the plain implementation and of Errata's exact edits, which take turns.

    Args:
        bench: of one method.
        facts: the first to warm up with.
    """
    warm, *facts = facts
    plain = bench.warmed(warm)
    trajectory = Trajectory(bench.model, bench.editor)
    first, _ = seconds(lambda: trajectory.propose([warm]))  # factors what later edits share
    record: dict[str, Any] = {"first": first, "plain": [], "ours": [], "error": []}
    record["evaluations"] = {"plain": [], "ours": []}
    for fact in facts:
        before = plain.evaluations
        took, wanted = seconds(lambda f=fact: plain.propose([f]))
        record["plain"].append(took)
        record["evaluations"]["plain"].append(plain.evaluations - before)
        with _Counted(bench.model) as counted:
            took, entries = seconds(lambda f=fact: trajectory.advance([f]))
        record["ours"].append(took)
        record["evaluations"]["ours"].append(counted.passes)
        record["error"].append(_worst(trajectory.journal.update(entries[0].step).changes, wanted))
    record["parts"] = {part: total / len(facts) for part, total in plain.seconds.items()}
    return record


def fast_edits(bench: Bench, facts: Sequence[Fact]) -> tuple[list[float], list[int]]:
    """Return the seconds of edits, and how often each evaluated the loss; the first fact warms up."""
    trajectory = Trajectory(bench.model, bench.editor)
    trajectory.propose(facts[:1])
    took, passes = [], []
    for fact in facts[1:]:
        with _Counted(bench.model) as counted:
            took.append(seconds(lambda f=fact: trajectory.advance([f]))[0])
        passes.append(counted.passes)
    return took, passes


def batches(
    size: Size,
    counts: Mapping[str, int],
    sample: int,
    repeats: int,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    **chosen: Any,
) -> Table:
    """Edit batches of facts.

    The plain implementation goes through values one fact after another, so it is timed on a small batch, whose update
    is compared; in its seconds an edit, the solves are divided among as many edits as Errata's batch has.

    Args:
        size: of the model.
        counts: the size of Errata's batch for each method.
        sample: the size of the plain implementation's.
        repeats: how often each batch is edited.
        folder: for text and statistics.
        dtype: precision of the weights.
        chosen: settings of all methods, in place of their defaults.
    """
    measured = []
    for method, count in counts.items():
        subject = Subject.random(size, max(count, sample), dtype)
        bench = Bench.random(subject, method, folder, **chosen)
        warm, *facts = subject.facts
        plain = bench.warmed(warm)
        bench.editor.propose(bench.model, [warm])  # factors what later edits share
        record: dict[str, Any] = {"size": size.name, "method": f"{method}, {count} at once", "plain": [], "ours": []}
        few, record["error"] = facts[:sample], []
        for _ in range(repeats):
            record["ours"].append(seconds(lambda b=bench, f=facts: b.editor.propose(b.model, f))[0] / count)
            wanted = plain.propose(few)
            parts = plain.seconds
            record["plain"].append((parts["values"] + parts["keys"]) / sample + parts["solve"] / count)
            plain.forget()
        record["error"].append(_worst(bench.editor.propose(bench.model, few).changes, wanted))
        measured.append(record)
    return edits_table(f"batches-{size.name}", measured)


def _worst(changes: Any, wanted: dict[str, torch.Tensor]) -> float:
    return max(distance(_whole(changes[path]), matrix) for path, matrix in wanted.items())


def _whole(change: Change) -> torch.Tensor:
    return change.matrix if isinstance(change, Dense) else change.left.double() @ change.right.double()


def edits_table(name: str, measured: Sequence[dict[str, Any]]) -> Table:
    """Return the table of seconds an edit."""
    alone = any("fast" in m for m in measured)
    columns = ["method", "plain", "Errata", "", "ΔW differs by"]
    if alone:
        columns = [
            "method",
            "plain",
            "of it values, keys, solves",
            *columns[2:],
            "fast mode",
            " ",
            "evaluations of the loss",
        ]
    rows = []
    for m in measured:
        row = [m["method"], spread(m["plain"])]
        if alone:
            row.append(", ".join(f"{m['parts'].get(part, 0.0):.2f}" for part in ("values", "keys", "solve")) + " s")
        row += [spread(m["ours"]), times(m["plain"], m["ours"]), f"{max(m['error']):.0e}"]
        if alone:
            taken = m["evaluations"]
            row += [spread(m["fast"]), times(m["plain"], m["fast"])]
            row.append(", ".join(f"{what} {_counts(taken[kind])}" for what, kind in _KINDS.items()))
        rows.append(row)
    return Table(name, columns, rows, measured)


def _counts(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"
