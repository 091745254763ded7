"""The second paper's reproduction: its measures on rows with known answers, its runs' edits, and one run end to end."""

import json
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import nan, sqrt
from pathlib import Path

import pytest

from errata.edits.datasets import load_stream
from errata.errors import ConfigError
from errata.lab.models import LAB_MODELS, load_world
from errata.probes.rows import Row, write_rows
from errata.studies.reproduce import lin2024_measures as m
from errata.studies.reproduce.claims import DOES_NOT, HOLDS, NOT_TESTABLE
from errata.studies.reproduce.lin2024 import REPRODUCTION
from errata.studies.reproduce.papers import reproduction
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size
from errata.studies.run import run

Kinds = Mapping[str, Sequence[Sequence[Row]]]


@pytest.fixture
def results(tmp_path: Path) -> Callable[[Kinds], Results]:
    """Write runs of the given rows, a list of sets a kind."""

    def write(kinds: Kinds) -> Results:
        paths = {}
        for kind, sets in kinds.items():
            for i, rows in enumerate(sets):
                path = paths[f"{kind}/{i}"] = tmp_path / kind / str(i)
                path.mkdir(parents=True)
                config = {"model": {"name": "lab-s"}, "method": {"name": "rome"}}
                (path / "run.json").write_text(json.dumps({"config": config}))
                (path / "journal.jsonl").write_text("")
                (path / "facts.jsonl").write_text("")
                write_rows(path / "probes" / "all" / "part-000100.parquet", list(rows))
        return Results(paths)

    return write


def answers(step: int, right: int, of: int = 50, value: float = 0.0) -> list[Row]:
    """Answer a task's items, and as many facts: the first so many right, the others with a value."""
    metrics = ("downstream.sentiment.item", m.FACTS)
    rows = [Row(step, metric, float(i < right) or value, prompt_id=f"{i}") for metric in metrics for i in range(of)]
    return [*rows, Row(step, "downstream.sentiment.f1", right / of)]


def scores(now: Sequence[int], again: Sequence[int], step: int) -> list[Row]:
    made = [Row(i + 1, "efficacy.exact@now", float(v), edit_id=str(i)) for i, v in enumerate(now)]
    return made + [Row(step, "efficacy.exact@retest", float(v), edit_id=str(i)) for i, v in enumerate(again)]


def test_loss_is_relative_to_what_was_right_before_and_its_interval_is_that_of_the_paired_difference(results) -> None:
    rows = [*answers(0, 40), *answers(10, 30)]
    found = m.relative_loss(results({"rome": [rows]}).run("rome/0"), 10)
    # 100 items, 80 right before and 60 after: 20 are lost, none is gained.
    assert found.value == pytest.approx(1 - 60 / 80)
    lost, gained, n = 21 / 102, 1 / 102, 102
    half = 1.959964 * sqrt((lost + gained - (lost - gained) ** 2) / n)
    assert (found.low, found.high) == pytest.approx(((lost - gained - half) / 0.8, (lost - gained + half) / 0.8))


def test_an_item_without_an_answer_is_lost_and_a_task_that_was_never_done_is_left_out(results) -> None:
    dead = [*answers(0, 40), *answers(10, 0, value=nan)]
    assert m.relative_loss(results({"dead": [dead]}).run("dead/0")).value == 1
    never = [Row(s, "downstream.paraphrase.item", 0.0, prompt_id="a") for s in (0, 10)]
    run = results({"rome": [[*answers(0, 40), *answers(10, 40), *never]]}).run("rome/0")
    assert set(m.items(run, 10)) == {"sentiment", "facts"}


@pytest.mark.parametrize(("right", "verdict"), [(50, DOES_NOT), (45, NOT_TESTABLE), (20, HOLDS)])
def test_a_claim_of_damage_is_ruled_by_the_whole_interval(results, right: int, verdict: str) -> None:
    found = m.lost("rome", 10, at_least=0.1, rule="r")(results({"rome": [[*answers(0, 50), *answers(10, right)]] * 3}))
    assert found.verdict == verdict
    assert f"sentiment {right * 2} %, facts {right * 2} %" in found.text


def test_kinds_are_compared_set_by_set(results) -> None:
    def kind(*right: int) -> list[list[Row]]:
        return [[*answers(0, 50), *answers(100, r)] for r in right]

    made = results({"bare": kind(10, 5, 0), "with": kind(49, 50, 48), "alike": kind(50, 49, 48)})
    found = m.loses_more("bare", "with", at_least=0.05, rule="r")(made)
    assert found.value == pytest.approx((39 + 45 + 48) / 150)
    assert found.verdict == HOLDS
    alike = m.loses_more("alike", "with", at_least=0.3, rule="r")(made)
    assert alike.low < alike.value == 0 < alike.high
    assert alike.verdict == DOES_NOT
    # The set that lost least decides whether each is damaged.
    each = m.lost_by_each(("bare",), at_least=0.5, rule="r", sets=True)(made)
    assert each.value == pytest.approx(0.8)
    assert each.verdict == HOLDS
    assert each.text.startswith("set 0 80 %")
    assert m.lost_by_each(("bare", "with"), at_least=0.5, rule="r")(made).verdict == DOES_NOT
    apart = m.sets_apart("bare", 100, at_least=0.05, rule="r")
    assert apart(made).value == pytest.approx(0.2)
    assert apart(made).verdict == HOLDS
    assert m.sets_apart("alike", 100, at_least=0.01, rule="r")(made).verdict == NOT_TESTABLE
    floor = results({"one": [[*answers(0, 200, 200), *answers(100, 200, 200)]]})
    assert m.loses_more("one", "one", at_least=0.05, rule="r")(floor).verdict == NOT_TESTABLE


def test_the_gap_between_the_scores_is_taken_edit_by_edit_and_keeps_a_width_where_there_is_none(results) -> None:
    made = results(
        {
            "rome": [scores([1] * 19 + [0], [1] * 10 + [0] * 10, 20)],
            "grace": [scores([1] * 40, [1] * 40, 40), scores([1] * 40, [1] * 40, 40)],
            "dead": [scores([1] * 20, [nan] * 20, 20)],
        }
    )
    rome = m.score_gap("rome", (20,), at_least=0.05, rule="r")(made)
    assert rome.value == pytest.approx(0.95 - 0.5)
    assert rome.verdict == HOLDS
    assert "after 20: 95 % against 50 %" in rome.text
    grace = m.score_gap("grace", (40,), at_most=0.05, rule="r")(made)
    assert grace.low < grace.value == 0 < grace.high
    assert grace.verdict == HOLDS
    assert m.score_gap("dead", (20,), at_least=0.05, rule="r")(made).value == 1
    assert m.taken("rome", at_least=0.8, rule="r")(made).value == pytest.approx(0.95)
    assert m.found_again("grace", at_most=0.05, rule="r")(made).verdict == DOES_NOT


def test_what_carries_over_is_asked_of_recalled_edits_alone(results) -> None:
    carried = [Row(20, "paraphrase.exact@retest", float(i < 9), edit_id=str(i)) for i in range(20)]
    rows = [*scores([1] * 20, [1] * 10 + [0] * 10, 20), *carried]
    found = m.carried_over("rome", at_least=0.5, rule="r")(results({"rome": [rows]}))
    assert found.value == pytest.approx(0.9)  # 9 of the 10 that are recalled, not of all 20
    assert found.verdict == HOLDS


def test_every_claim_finds_runs_that_are_made_and_every_run_serves_a_claim() -> None:
    made = REPRODUCTION.work(Size("lab-s", None, 3), Path("out"))
    patterns = [pattern for claim in REPRODUCTION.claims for pattern in claim.needs]
    assert len({claim.id for claim in REPRODUCTION.claims}) == len(REPRODUCTION.claims)
    for pattern in patterns:
        assert any(fnmatchcase(name, pattern) for name in made.runs), pattern
    for name in made.runs:
        assert any(fnmatchcase(name, pattern) for pattern in patterns), name
    with pytest.raises(ConfigError, match="no claim 'x'"):
        reproduction("lin2024").chosen(["x"])


def test_sets_are_disjoint_repeat_no_subject_and_are_the_same_for_all_models_of_the_world() -> None:
    made = REPRODUCTION.work(Size("lab-s", None, 3), Path("out"))
    sets = [load_stream(made.runs[f"rome/{i}"].edits, "lab-s").facts for i in range(3)]
    assert [len({fact.subject for fact in chosen}) for chosen in sets] == [100] * 3
    assert len({(fact.subject, fact.relation) for chosen in sets for fact in chosen}) == 300
    for name in (name for name in made.runs if name.endswith("/1")):
        recipe = made.runs[name]
        assert load_stream(recipe.edits, recipe.model.name).facts == sets[1], name
    trained = load_world("lab-s").edits(960, 0)[made.trainings["mend"].skip :]
    assert trained
    assert {fact.id for chosen in sets for fact in chosen}.isdisjoint(record["id"] for record in trained)


def test_a_lab_model_without_twins_is_compared_with_none() -> None:
    names = REPRODUCTION.work(Size("lab-m", 5, 1), Path("out")).runs
    assert not any(name.partition("/")[0].endswith(("small", "large", "chat")) for name in names)
    assert all(recipe.model.name in LAB_MODELS for recipe in names.values())


def test_a_run_of_the_reproduction_has_every_row_that_its_claims_read(tmp_path: Path) -> None:
    recipe = REPRODUCTION.work(Size("lab-s", 3, 1), tmp_path).runs["grace/0"]
    small = [{**probe.model_dump(), "n": 6} if "n" in probe.settings else probe.model_dump() for probe in recipe.probes]
    recipe = type(recipe).model_validate({**recipe.model_dump(), "probes": small})
    made = Results({"grace/0": run(recipe, tmp_path / "run")})
    measured = {
        probe: sorted(set(frame["step"]))
        for probe in ("forgetting", "downstream", "unrelated")
        for frame in [made.run("grace/0").rows(probe).collect()]
    }
    # Between two measurements stands the first edit alone: `every` 3, `also_at` 1.
    assert measured["downstream"] == measured["unrelated"] == [0, 1, 3]
    found = {c.id: c.measure(made) for c in REPRODUCTION.claims if c.needs == ("grace/*",)}
    assert found["capability-grace-1"].value == 0
    assert found["individual-grace"].value == 1
    assert found["sequential-grace"].value == 0
