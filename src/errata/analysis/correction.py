"""What a list of corrections came to: each fact before and after, what it cost elsewhere, how many more are safe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from errata.analysis.advice import why_not
from errata.analysis.frames import RunFrames, journal_entries
from errata.analysis.intervals import wilson
from errata.analysis.room import Room, room

__all__ = ["Correction", "Cost", "FactOutcome", "correction", "of_corrections"]

APPLIED = ("applied", "disabling", "nonfinite")


@dataclass(frozen=True)
class FactOutcome:
    """One fact before and after.

    Args:
        edit: its number.
        id, subject, prompt, target: the fact.
        status: as in the journal.
        reason: the guard's, or why it failed.
        before, after: how the model continued the prompt; after the last edit, or after its own where it was refused;
            empty where that was not measured, or measured before edits were taken back.
        p_before, p_after: probability of the new object, the geometric mean over its tokens; NaN likewise.
        took: whether the model says the new object after the last edit, each token the most probable one; None where
            the edit is not in the weights, a later one contradicts it, or nothing was measured of the present model.
        superseded_by: id of the last edit, where that gave the same subject and prompt another object; empty for none.
        cause: why an applied edit did not take, as far as its diagnostics tell.
        repeats: id of the first edit that states the same, where this is a further one; empty for none.
    """

    edit: int
    id: str
    subject: str
    prompt: str
    target: str
    status: str
    reason: str
    before: str
    after: str
    p_before: float
    p_after: float
    took: bool | None
    superseded_by: str = ""
    repeats: str = ""
    cause: str = ""

    @property
    def asked(self) -> bool:
        """Whether it counts: it was to be taught and is not taken back, contradicted later, or a repetition."""
        return self.status != "undone" and not self.superseded_by and not self.repeats


@dataclass(frozen=True)
class Cost:
    """A figure about what nobody edited, before the first and after the last edit."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Correction:
    """The verdict.

    Args:
        facts: every fact, in the order of their edits.
        costs: what was not edited.
        room: how many more are safe.
        gentler: edits that the guard made with another setting of the method.
        damped: edits that it made smaller.
        undone: how many edits were taken back after the measuring, whose figures are another model's and left out.
        guarded: whether every update was judged before it landed.
        method: how they were edited.
        paraphrases: the share of the standing facts' paraphrases that have the new object; None where none was asked.
    """

    facts: tuple[FactOutcome, ...]
    costs: tuple[Cost, ...]
    room: Room
    gentler: int
    damped: int
    undone: int = 0
    paraphrases: Cost | None = None
    guarded: bool = True
    method: str = ""

    @property
    def took(self) -> int:
        """How many facts the model says now, each once."""
        return sum(fact.asked and fact.took is True for fact in self.facts)

    @property
    def refused(self) -> tuple[FactOutcome, ...]:
        """Facts that were refused or failed."""
        return tuple(fact for fact in self.facts if fact.status in ("rolled-back", "failed"))

    @property
    def asked(self) -> int:
        """How many facts were to be taught, not taken back, and not contradicted later; each once."""
        return sum(fact.asked for fact in self.facts)

    @property
    def took_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of them that took."""
        return wilson(self.took, self.asked)


def of_corrections(run: RunFrames) -> bool:
    """Say whether a run is one of corrections: its facts were given, not read from a data set, and asked for."""
    config = run.info["config"]
    edits, probes = config.get("edits", {}), {probe.get("name") for probe in config.get("probes", ())}
    return edits.get("dataset") == "jsonl" and edits.get("path") is None and {"proficiency", "text"} <= probes


def correction(run: RunFrames) -> Correction:
    """Judge a run directory as a list of corrections.

    Args:
        run: of `errata edit` or `errata run`, with the probes `proficiency` and `text` at least.
    """
    entries = journal_entries(run.path / "journal.jsonl")
    facts = {str(fact["id"]): fact for fact in run.facts}
    rows = run.rows("proficiency").filter(pl.col("prompt_id") == "efficacy:0").collect()
    logp = _by_edit(rows.filter(pl.col("metric").str.starts_with("efficacy.exact")), "logp_new")
    exact = _by_edit(rows.filter(pl.col("metric").str.starts_with("efficacy.exact")), "value")
    texts = _by_edit(run.rows("text").collect(), "text")
    undone = sum(entry["status"] == "undone" for entry in entries)
    latest, first = _requests(entries, facts)
    outcomes = []
    for entry in entries:
        fact, key, applied = facts[entry["id"]], entry["id"], entry["status"] in APPLIED
        when = "none" if undone else "end" if applied else "now"
        said = exact.get((key, when)) if applied else None
        request, target = _request(fact), fact["target_new"].strip()
        last = latest[request] if applied else key
        superseded = facts[last]["target_new"].strip() != target
        p_after = math.exp(logp.get((key, when), math.nan))
        failed = entry["status"] == "applied" and said == 0.0
        method = run.info["config"].get("method", {})
        cause = why_not(entry.get("diagnostics", {}), method, p_after) if failed else ""
        if failed and exact.get((key, "now")) == 1.0:
            cause = "it took when it was made; a later edit undid it"
        stated = first[request, target] if applied and not superseded else key
        outcomes.append(
            FactOutcome(
                edit=entry["edit"],
                id=key,
                subject=fact["subject"],
                prompt=fact["prompt"].replace("{}", fact["subject"]),
                target=fact["target_new"],
                status=entry["status"],
                reason=entry.get("verdict", ""),
                before=str(texts.get((key, "base"), "")).strip(),
                after=str(texts.get((key, when), "")).strip(),
                p_before=math.exp(logp.get((key, "base"), math.nan)),
                p_after=p_after,
                took=None if said is None else said == 1.0,
                superseded_by=last if superseded else "",
                repeats=stated if stated != key else "",
                cause="" if superseded else cause,
            )
        )
    made = [entry for entry in entries if entry["status"] in APPLIED]
    return Correction(
        facts=tuple(outcomes),
        costs=() if undone else tuple(_costs(run)),
        room=room(made, run.info["config"].get("guard") or {}, undone),
        gentler=sum(entry.get("setting", 0) > 0 for entry in made),
        damped=sum(entry.get("scale", 1.0) < 1.0 for entry in made),
        undone=undone,
        paraphrases=None if undone else _paraphrases(run),
        guarded=bool((run.info["config"].get("guard") or {}).get("enabled")),
        method=run.method,
    )


def _requests(
    entries: Sequence[Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[tuple[str, str], str], dict[tuple[tuple[str, str], str], str]]:
    """Return the last edit in the weights of every subject and prompt, and the first that gave it each object."""
    latest: dict[tuple[str, str], str] = {}
    first: dict[tuple[tuple[str, str], str], str] = {}
    for key in (entry["id"] for entry in entries if entry["status"] in APPLIED):
        request = _request(facts[key])
        latest[request] = key
        first.setdefault((request, facts[key]["target_new"].strip()), key)
    return latest, first


def _request(fact: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is asked, as `errata.edits.standing` compares it."""
    return fact["subject"].lower(), fact["prompt"]


def _by_edit(rows: pl.DataFrame, column: str) -> dict[tuple[str, str], Any]:
    """Return a column by edit and by when it was measured, the part of the metric after the @."""
    return {
        (edit, metric.partition("@")[2]): value
        for edit, metric, value in rows.select("edit_id", "metric", column).iter_rows()
    }


def _paraphrases(run: RunFrames) -> Cost | None:
    """Return how many paraphrases of the facts that stand at the end had the new object, before and after."""
    after = run.metric("paraphrase.exact@end")
    before = run.metric("paraphrase.exact@base").filter(pl.col("edit_id").is_in(after["edit_id"].to_list()))
    if not len(after) or not len(before):
        return None
    return Cost("paraphrase.exact", *(_mean(rows["value"].fill_nan(0.0)) for rows in (before, after)))


def _costs(run: RunFrames) -> list[Cost]:
    """Return the means of what was measured before the first edit and after the last."""
    metrics = run.metrics()
    wanted: list[str] = [m for m in ("unrelated.exact", "same_subject.exact", "perplexity") if m in metrics]
    wanted += [m for m in metrics if m.startswith("downstream.") and m.endswith((".f1", ".accuracy"))]
    found = []
    for name in wanted:
        rows = run.metric(name)
        first, last = (rows.filter(pl.col("step") == step)["value"] for step in (0, rows["step"].max()))
        found.append(Cost(name, _mean(first), _mean(last)))
    for name in ("neighborhood.success", "locality.exact"):
        # What is kept is kept of what the unedited model says: all of it, before the first edit.
        asked, again = (run.metric(f"{name}@{when}") for when in ("base", "end"))
        if len(asked):  # what is not defined of the unedited model (two objects that are the same) is not of this one
            again = again.filter(pl.col("edit_id").is_in(asked.drop_nans("value")["edit_id"].to_list()))
        before, after = asked["value"].drop_nans(), again["value"].fill_nan(0.0)  # a dead model keeps nothing
        if len(after):
            found.append(Cost(name, _mean(before) if len(before) else 1.0, _mean(after)))
    return found


def _mean(values: pl.Series) -> float:
    return float(values.to_numpy().mean())
