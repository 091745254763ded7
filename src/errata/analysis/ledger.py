"""Who edited what and when: a run directory's journal with its facts and its ledger."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.analysis.frames import RunFrames, journal_entries, read_lines
from errata.errors import RunError

__all__ = ["HOLDING", "LedgerLine", "ledger"]

HOLDING = "holding.json"
"""Which facts still hold, measured after edits were taken back; removed by the next undo."""


@dataclass(frozen=True)
class LedgerLine:
    """One edit, as far as it is recorded.

    Args:
        edit: its number.
        step: how many edits had been made when its batch was through.
        id, subject, prompt, target: the fact.
        status: as in the journal.
        verdict: the guard's reason, or the failure's message.
        at, author: when it was made, in UTC, and by whom; empty where that was not recorded.
        undone_at, undone_by: when it was taken back, and by whom.
        relative: the largest ‖ΔW‖_F/‖W₀‖_F over modules.
        norms: ‖ΔW‖_F for each module path.
        setting, scale: which of the method's settings proposed it, and by what the guard multiplied it.
        signals: what the guard saw.
        holds, says: whether the model answers with the fact since edits were taken back, and how it answers; None and
            empty where that was not asked.
    """

    edit: int
    step: int
    id: str
    subject: str
    prompt: str
    target: str
    status: str
    verdict: str
    at: str
    author: str
    undone_at: str
    undone_by: str
    relative: float
    norms: Mapping[str, float]
    setting: int
    scale: float
    signals: Mapping[str, float]
    holds: bool | None = None
    says: str = ""


def ledger(run: RunFrames) -> list[LedgerLine]:
    """Return a line an edit, in their order."""
    made, undone = _stamps(run.path / "ledger.jsonl")
    facts = {str(fact["id"]): fact for fact in run.facts}
    answers = _holding(run.path / HOLDING)
    lines = []
    for entry in journal_entries(run.path / "journal.jsonl"):
        fact, step = facts[entry["id"]], entry["step"]
        when, back = made.get(step, {}), undone.get(step, {}) if entry["status"] == "undone" else {}
        lines.append(
            LedgerLine(
                edit=entry["edit"],
                step=step,
                id=entry["id"],
                subject=entry["subject"],
                prompt=fact["prompt"],
                target=fact["target_new"],
                status=entry["status"],
                verdict=entry.get("verdict", ""),
                at=when.get("at", ""),
                author=when.get("author", ""),
                undone_at=back.get("at", ""),
                undone_by=back.get("author", ""),
                relative=entry.get("relative", 0.0),
                norms=entry.get("norms", {}),
                setting=entry.get("setting", 0),
                scale=entry.get("scale", 1.0),
                signals=entry.get("signals", {}),
                **answers.get(entry["id"], {}),
            )
        )
    return lines


def _holding(file: Path) -> dict[str, dict[str, Any]]:
    """Return what was measured after edits were taken back, by fact."""
    if not file.exists():
        return {}
    try:
        return {
            key: {"holds": bool(v["holds"]), "says": str(v["says"])} for key, v in json.loads(file.read_text()).items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as e:
        raise RunError(f"{file} is damaged ({e}). Remove it; the next undo measures anew.") from e


def _stamps(file: Path) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
    """Return the last stamp of each step's making and of its undoing: an interrupted write may have left one before."""
    made: dict[int, dict[str, Any]] = {}
    undone: dict[int, dict[str, Any]] = {}
    for stamp in read_lines(file) if file.exists() else ():
        if "undo" in stamp:
            undone.update(dict.fromkeys(stamp["undo"], stamp))
        else:
            made[stamp["step"]] = stamp
    return made, undone
