"""Facts that several runs share: intervals, spreads and pairs count each of them once."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_questions import retested, written

from errata.analysis.age import age_matrix, backward_transfer
from errata.analysis.bleeding import bled
from errata.analysis.differences import grouped
from errata.analysis.falls import reach
from errata.analysis.frames import RunFrames, load_run
from errata.analysis.intervals import over_runs, wilson
from errata.analysis.reordered import agreement, fates, spread
from errata.analysis.seeds import figures_over_runs
from errata.analysis.shared import fact_names, resampled_means
from errata.errors import RunError
from errata.probes.rows import Row
from errata.studies.questions import batches, bleeding, furthest, shares
from errata.studies.questions.table3 import table3
from errata.studies.reproduce.results import Results

NAN = math.nan


def width(bounds: tuple[float, float]) -> float:
    return bounds[1] - bounds[0]


def test_runs_that_ask_the_same_facts_know_no_more_than_one() -> None:
    right = np.repeat([0.0, 1.0], 50)
    facts = [f"f{i}" for i in range(100)]
    four = over_runs([right] * 4, np.random.default_rng(0), facts=[facts] * 4)
    # Runs that repeat each other to the last fact are one run.
    assert four == pytest.approx(wilson(50, 100), abs=0.02)
    apart = over_runs([right] * 4, np.random.default_rng(0), facts=[[f"{k}{f}" for f in facts] for k in range(4)])
    assert width(apart) < 0.75 * width(four)
    # Where every fact is right in every run there are still no more facts than a hundred.
    assert over_runs([np.ones(100)] * 4, np.random.default_rng(0), facts=[facts] * 4) == wilson(100, 100)


def test_an_interval_over_shared_facts_covers() -> None:
    """Facts have chances of their own; runs ask the same thirty of them."""
    rng, covered, naive = np.random.default_rng(1), 0, 0
    for _ in range(200):
        chance = rng.choice([0.05, 0.95], 30)
        runs = [(rng.random(30) < chance).astype(float) for _ in range(4)]
        low, high = over_runs(runs, rng, facts=[[str(i) for i in range(30)]] * 4)
        covered += low <= 0.5 <= high
        low, high = over_runs(runs, rng)
        naive += low <= 0.5 <= high
    assert covered >= 0.92 * 200
    assert naive < 0.85 * 200


def test_a_resample_of_facts_takes_all_their_answers() -> None:
    groups = [np.array([0.0, 1.0]), np.array([1.0, 0.0])]
    same = resampled_means(groups, [["a", "b"], ["b", "a"]], np.random.default_rng(0))
    assert (same[:, 0] == same[:, 1]).all()
    assert {*same[:, 0]} == {0.0, 0.5, 1.0}
    opposite = resampled_means(groups, [["a", "b"], ["a", "b"]], np.random.default_rng(0))
    assert (opposite[:, 0] == 1 - opposite[:, 1]).all()


def test_an_id_names_another_fact_in_another_draw(tmp_path: Path) -> None:
    run = written(tmp_path / "a", [Row(1, "efficacy.exact@now", 1.0, "f1", "efficacy:0")], 2)
    other = written(tmp_path / "b", [Row(1, "efficacy.exact@now", 1.0, "f1", "efficacy:0")], 2)
    lines = [json.loads(line) for line in (other.path / "facts.jsonl").read_text().splitlines()]
    lines[0]["subject"] = "somebody else"
    (other.path / "facts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    here, there = fact_names(run), fact_names(load_run(other.path))
    assert here["f1"] != there["f1"]
    assert here["f2"] == there["f2"]


def test_backward_transfer_names_its_facts(tmp_path: Path) -> None:
    ids = ["x", "y"]
    found = [
        backward_transfer(age_matrix(written(tmp_path / name, retested({1: [1.0], 2: [0.0, 1.0]}, order), 2, order)))
        for name, order in (("a", ids), ("b", ids[::-1]))
    ]
    assert [f["fact"].to_list() for f in found] == [["Sx\nr0"], ["Sy\nr0"]]
    # One fact lost in either run: two facts, of each of which nothing is known but one loss.
    low, high = shares.signed(found, np.random.default_rng(0))[1:]
    assert low < -0.9
    assert high > -0.9


def run_of(path: Path, order: list[str], lost: set[str]) -> RunFrames:
    rows = [Row(i, "efficacy.exact@now", 1.0, fact, "efficacy:0") for i, fact in enumerate(order, 1)]
    rows += [Row(len(order), "efficacy.exact@retest", float(f not in lost), f, "efficacy:0") for f in order]
    rows += [Row(len(order), "unrelated.exact", 1.0, prompt_id=f"p{i}") for i in range(3)]
    # What a fact is does not depend on where it stands.
    run = written(path, rows, len(order), order)
    facts = [dict(f) | {"relation": "r"} for f in run.facts]
    (path / "facts.jsonl").write_text("".join(json.dumps(f) + "\n" for f in facts))
    return load_run(path)


def test_batches_are_compared_fact_by_fact_in_the_orders_that_both_have(tmp_path: Path) -> None:
    ids = [f"f{i}" for i in range(20)]
    hard, easy = set(ids[:10]), set(ids[:9])
    places = {}
    for k, order in enumerate((ids, ids[::-1])):
        single, ten = tmp_path / "orders" / "memit" / str(k), tmp_path / "batches" / "memit-10" / str(k)
        run_of(single, order, hard)
        run_of(ten, order, easy)
        places |= {f"orders/memit/{k}": single, f"batches/memit-10/{k}": ten}
    (entry,) = [v for v in batches.answer(Results(places)).tables[0].values if v["batch"] == 10]
    value, low, high = entry["kept, against 1"]
    assert value == pytest.approx(0.05)
    # One fact of twenty differs, in both orders: unpaired the interval would be ±0.3, and never free of a loss.
    assert low > -0.15
    assert high < 0.25
    # An order that one of the two lacks is compared with nothing.
    del places["orders/memit/0"]
    (entry,) = [v for v in batches.answer(Results(places)).tables[0].values if v["batch"] == 10]
    assert entry["kept, against 1"][0] == pytest.approx(0.05)
    del places["orders/memit/1"]
    (entry,) = batches.answer(Results(places)).tables[0].values
    assert "kept, against 1" not in entry


def test_the_spread_by_chance_is_that_of_facts_with_chances_of_their_own() -> None:
    rng = np.random.default_rng(0)
    sure = np.repeat([[1.0] * 4, [0.0] * 4], 50, axis=0)
    # Nothing is left to chance where every fact has the same fate in every order, whatever the share.
    assert (spread(sure, rng, 200).chance, spread(sure, rng, 200).value) == (0, 0)
    assert spread(sure, rng, 200).p == 1
    drawn = np.array([[(rng.random((100, 4)) < rng.choice([0.1, 0.9], (100, 1)))] for _ in range(300)])[:, 0]
    observed = np.sqrt(np.mean([t.mean(axis=0).var(ddof=1) for t in drawn.astype(float)]))
    chance = np.sqrt(np.mean([spread(t, rng, 1).chance ** 2 for t in drawn.astype(float)]))
    assert chance == pytest.approx(observed, rel=0.08)
    assert chance == pytest.approx(np.sqrt(0.09 / 100), rel=0.05)  # and not √(0.25/100) = 0.05
    # One order of four that loses most is no chance.
    tilted = np.ones((100, 4))
    tilted[:60, 0] = 0
    assert spread(tilted, rng, 200).p < 0.01


def test_agreement_says_on_how_many_resamples_it_rests(tmp_path: Path) -> None:
    ids = [f"f{i}" for i in range(20)]
    found = fates([run_of(tmp_path / "a", ids, {"f1"}), run_of(tmp_path / "b", ids[::-1], {"f1"})])
    same = agreement(found, np.random.default_rng(0))
    assert same.value == pytest.approx(1)
    # The one fact that is lost is in a resample with a chance of 1 − (19/20)^20.
    assert same.known == pytest.approx(1 - 0.95**20, abs=0.05)
    # That both lose it, of twenty, is a chance of one in twenty, and no more certain than that.
    assert same.p == pytest.approx(0.05, abs=0.03)


def test_four_draws_have_a_range_and_enough_draws_an_interval() -> None:
    four = reach([(20, True), (40, True), (60, True), (80, True)])
    assert (four.low, four.high, four.coverage) == (20, 80, 0.875)
    assert furthest._bounds([four]) == "the range of the draws (of 4, it holds the median 87.5% of the time)"
    ten = reach([(20 * i, True) for i in range(1, 11)])
    assert (ten.low, ten.high) == (40, 180)
    assert ten.coverage == pytest.approx(1 - 2 * 11 / 1024)
    assert furthest._bounds([ten]) == "the 95 % interval of the median"
    assert reach([(20, True)]).coverage == 0


def test_made_and_kept_end_where_the_comparison_does_and_count_what_failed_in_both(tmp_path: Path) -> None:
    now = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    rows = [Row(i, "efficacy.exact@now", v, f"f{i}", "efficacy:0") for i, v in enumerate(now, 1)]
    # For edit 2 nothing was proposed, and it is not tested again; after step 4 everything breaks.
    tested = {2: {1: 1.0}, 4: {1: 1.0, 3: 1.0, 4: 0.0}, 6: {1: 0.0, 3: 0.0, 4: 0.0, 5: 0.0, 6: 0.0}}
    rows += [
        Row(step, "efficacy.exact@retest", v, f"f{i}", "efficacy:0")
        for step, values in tested.items()
        for i, v in values.items()
    ]
    run = written(tmp_path / "run", rows, 6)
    made, kept = furthest.made_and_kept(run, 5)
    assert made["value"].to_list() == [1, 0, 1, 1]
    assert kept["value"].to_list() == [1, 0, 1, 0]
    made, kept = furthest.made_and_kept(run, 6)
    assert (made["value"].sum(), kept["value"].sum()) == (3, 0)


def test_table_3_counts_what_was_not_made_and_ends_where_the_run_does(tmp_path: Path) -> None:
    rows = []
    # For edit 2 nothing was proposed; edit 4 lies beyond the end.
    for i, (efficacy, near) in {1: (1.0, [1.0, 0.0]), 3: (1.0, [1.0, 1.0]), 4: (0.0, [0.0, 0.0])}.items():
        rows += [Row(i, "efficacy.success@now", efficacy, f"f{i}", "efficacy:0")]
        rows += [Row(i, "efficacy.exact@now", 1.0, f"f{i}", "efficacy:0")]
        rows += [Row(i, "neighborhood.success@now", v, f"f{i}", f"neighborhood:{k}") for k, v in enumerate(near)]
    rows += [Row(3, "efficacy.exact@retest", v, f"f{i}", "efficacy:0") for i, v in ((1, 0.0), (3, 1.0))]
    rows += [Row(4, "efficacy.exact@retest", 0.0, f"f{i}", "efficacy:0") for i in (1, 3, 4)]
    table = table3({"m": [(written(tmp_path / "run", rows, 4), 3)]}, seed=0)
    (value,) = table.values
    assert [value[c][0] for c in ("efficacy", "locality", "forgotten")] == pytest.approx([2 / 3, 3 / 4, 1 / 2])
    assert table.rows[0][-1] == "3"


def test_what_an_edit_bleeds_into_was_right_before_and_is_all_known(tmp_path: Path) -> None:
    known = pl.DataFrame({"prompt_id": ["a", "b"], "subject": "X", "relation": "r9", "object": "o"})
    before = [Row(0, "unrelated.exact", v, prompt_id=p, logp_true=-1.0) for p, v in (("a", 1.0), ("b", 0.0))]
    after = [Row(1, "unrelated.exact", 1.0, prompt_id=p, logp_true=-1.0) for p in ("a", "b")]
    found = bled(written(tmp_path / "a", before + after), known)
    assert found["prompt_id"].to_list() == ["a"]  # b was not there to be kept
    with pytest.raises(RunError, match="1 facts asked for after edits are not before the first edit, such as 'b'"):
        bled(written(tmp_path / "b", before[:1] + after), known)
    with pytest.raises(RunError, match="are not in the model's world, such as 'b'"):
        bled(written(tmp_path / "c", before + after), known[:1])


def test_bleedings_runs_ask_before_the_first_edit_for_all_they_ask_for_later(tmp_path: Path) -> None:
    from errata.lab.models import load_world
    from errata.studies.reproduce.work import Size

    runs = bleeding.work(Size("lab-s-small", 60, 1), tmp_path).runs
    asked = [p.settings["n"] for run in runs.values() for p in run.probes if p.name == "unrelated"]
    assert min(asked) >= len(load_world("lab-s-small").facts())


def test_a_report_over_runs_counts_shared_facts_once(tmp_path: Path) -> None:
    ids = [f"f{i}" for i in range(40)]
    runs = [(f"run{k}", run_of(tmp_path / str(k), ids, set(ids[:20]))) for k in range(4)]
    found = {f.metric: f for f in figures_over_runs(grouped(runs))}["efficacy.exact@retest"]
    assert (found.low, found.high) == pytest.approx(wilson(20, 40), abs=0.03)


def test_bleeding_says_how_many_facts_it_asks_for() -> None:
    from errata.lab.models import load_world
    from errata.studies.reproduce.work import Size

    world = load_world("lab-s-small")
    others = len(world.people) - 60
    said = bleeding.about(Size("lab-s-small", 60, 2))
    assert f"the {others * len(world.relations)} facts of the {others} people whom a draw does not edit" in said
