"""Success is not defined where the new object is the true one: no tie counts as a failure, in no mean."""

import math
from dataclasses import replace

import polars as pl

from errata.analysis.correction import _costs
from errata.edits import Fact
from errata.probes.recall import recall_rows
from tiny import tiny_facts, tiny_model

SAME = Fact(
    subject="Mount Fuji",
    prompt="{} is a mountain in",
    target_new="Japan",
    target_true=" Japan",
    id="same",
    paraphrase_prompts=("Mount Fuji stands in",),
    neighborhood_prompts=("Mount Aso is a mountain in",),
)


def test_a_tie_of_one_object_is_no_failure_and_exact_match_stays() -> None:
    rows = list(recall_rows(tiny_model("gpt2"), [SAME, replace(tiny_facts(1)[0], id="other")], 1, "now"))
    success = {(r.edit_id, r.metric.split(".")[0]): r.value for r in rows if ".success" in r.metric}
    assert all(math.isnan(success["same", kind]) for kind in ("efficacy", "paraphrase", "neighborhood"))
    assert not any(math.isnan(success["other", kind]) for kind in ("efficacy", "paraphrase", "neighborhood"))
    assert {r.value for r in rows if r.edit_id == "same" and ".exact" in r.metric} <= {0.0, 1.0}
    composed, apart = replace(SAME, target_new="Zürich", target_true="Zu\u0308rich"), replace(SAME, target_true="Peru")
    assert composed.same_object
    assert not apart.same_object


class Rows:
    """Stand in for a run directory: neighborhood rows alone."""

    def __init__(self, base: list[float], end: list[float]) -> None:
        self._rows = {"neighborhood.success@base": base, "neighborhood.success@end": end}

    def metrics(self) -> list[str]:
        return list(self._rows)

    def metric(self, name: str) -> pl.DataFrame:
        values = self._rows.get(name, [])
        return pl.DataFrame(
            {"edit_id": [str(i) for i in range(len(values))], "value": pl.Series(values, dtype=pl.Float64)}
        )


def test_what_is_not_defined_before_the_edits_costs_nothing_after_them() -> None:
    nan = math.nan
    (cost,) = _costs(Rows([1.0, nan, 1.0], [1.0, nan, nan]))  # the second has one object, the third's model is dead
    assert (cost.before, cost.after) == (1.0, 0.5)
    assert _costs(Rows([nan], [nan])) == []
