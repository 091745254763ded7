"""Seconds an edit on real models, whose large vocabularies the random ones of the other tables lack."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.edits import Bench, edits_table, fast_edits, in_turns
from benchmarks.tables import Table
from errata.editors.strength import calibration_facts
from errata.models import load

__all__ = ["MODELS", "real_edits"]

MODELS = ("smollm2-135m", "gemma3-270m")

# Numbers near those that calibration finds: the plain implementation calibrates nothing. The time of an edit does not
# depend on them.
_STRENGTH = {"memit": {"covariance_weight": 400.0}, "alphaedit": {"identity_weight": 1.0}}


def real_edits(name: str, methods: Sequence[str], edits: int, folder: Path) -> Table:
    """Edit well-known facts one after another by each method, as `edits.one_by_one` does on random models.

    Exact edits take all the steps that the plain implementation takes; the row "as it comes" has the default settings,
    which stop once the loss has settled.

    Args:
        name: a known model, from `make models`.
        methods: names.
        edits: how many, after one to warm up with.
        folder: for statistics.
    """
    facts = calibration_facts()[: edits + 1]
    measured = []
    for method in methods:
        strength = _STRENGTH.get(method, {})
        whole = {**strength, "value": {"settled": 0.0}}
        record = {"size": name, "method": method, **in_turns(Bench(load(name), method, folder, whole), facts)}
        fast = Bench(load(name), method, folder, {**strength, "fast": True})
        record["fast"], record["evaluations"]["fast"] = fast_edits(fast, facts)
        measured.append(record)
        default = fast_edits(Bench(load(name), method, folder, strength), facts)
        plain = {key: record[key] for key in ("plain", "parts", "error")}
        evaluations = {**record["evaluations"], "ours": default[1]}
        measured.append(
            {**record, **plain, "method": f"{method}, as it comes", "ours": default[0], "evaluations": evaluations}
        )
    return edits_table(f"edits-{name}", measured)
