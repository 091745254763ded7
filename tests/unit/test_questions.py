"""The open questions: what follows from hand-made rows whose answer is known, and the pages that keep their prose."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from errata.analysis.age import age_matrix, backward_transfer, by_age, newest_against_oldest
from errata.analysis.bleeding import KINDS, bled, kinds
from errata.analysis.compatibility import against_drift, drift_at_loss
from errata.analysis.falls import fall_step, reach
from errata.analysis.frames import RunFrames, load_run
from errata.analysis.reordered import agreement, fates, with_position
from errata.cli import app
from errata.edits import Fact
from errata.edits.datasets import load_facts, load_stream
from errata.errors import ConfigError
from errata.lab.models import load_world
from errata.probes.rows import Row, write_rows
from errata.studies.questions import age, furthest, making, order
from errata.studies.questions.asked import QUESTIONS, question
from errata.studies.questions.page import fill
from errata.studies.reproduce.estimates import signed, unpaired
from errata.studies.reproduce.work import Size
from errata.studies.store import RunStore
from errata.studies.streams import KEPT, half, long, same

NAN = math.nan


def written(path: Path, rows: list[Row], n: int = 4, ids: list[str] | None = None) -> RunFrames:
    """Write a run of n edits, one a step, whose rows these are."""
    names = ids or [f"f{i}" for i in range(1, n + 1)]
    facts = [
        {"id": name, "subject": f"S{name}", "prompt": "{} is", "relation": f"r{i % 2}", "target_new": "new"}
        | {"target_true": "old"}
        for i, name in enumerate(names)
    ]
    path.mkdir(parents=True)
    info = {"name": path.name, "config": {"method": {"name": "rome"}, "model": {"name": "lab-s"}}}
    (path / "run.json").write_text(json.dumps(info))
    (path / "facts.jsonl").write_text("".join(json.dumps(f) + "\n" for f in facts))
    entries = [
        {"edit": i, "step": i, "id": f["id"], "subject": f["subject"], "status": "applied", "relative": 0.1}
        for i, f in enumerate(facts, 1)
    ]
    (path / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    write_rows(path / "probes" / "all" / "part-000001.parquet", rows)
    return load_run(path)


def retested(table: dict[int, list[float]], ids: list[str] | None = None) -> list[Row]:
    """Return the rows of R[i, j]: at step j, the edits 1 to j; the diagonal is the test right after the edit."""
    names = ids or [f"f{i}" for i in range(1, 1 + max(map(len, table.values())))]
    rows = []
    for step, values in table.items():
        rows.append(Row(step, "efficacy.exact@now", values[step - 1], names[step - 1], "efficacy:0"))
        rows += [Row(step, "efficacy.exact@retest", v, names[i], "efficacy:0") for i, v in enumerate(values)]
    return rows


# Edit 1 is lost at step 3, comes back at 4; edit 2 never took; edit 3 is lost at once; what is dead is lost.
TABLE = {1: [1.0], 2: [1.0, 0.0], 3: [0.0, 0.0, 1.0], 4: [1.0, 0.0, NAN, 1.0]}


def test_backward_transfer_is_what_became_of_every_edit_but_the_last(tmp_path: Path) -> None:
    matrix = age_matrix(written(tmp_path / "run", retested(TABLE)))
    assert matrix.filter(pl.col("step") == 3)["kept"].to_list() == [0, 0, 1]
    assert backward_transfer(matrix)["value"].to_list() == [0, 0, -1]
    # At a step between, the same with T in its place.
    assert backward_transfer(matrix.filter(pl.col("step") <= 3))["value"].to_list() == [-1, 0]


def test_age_counts_from_the_edit_and_follows_what_was_exact(tmp_path: Path) -> None:
    matrix = age_matrix(written(tmp_path / "run", retested(TABLE)))
    aged = by_age(matrix, width=2)
    # Edit 2 never took. Edit 1: exact at age 1, lost at 2, back at 3.
    assert aged.drop("fact").rows() == [(1, 0, 1.0), (1, 2, 0.5), (1, 4, 1.0), (3, 0, 1.0), (3, 2, 0.0), (4, 0, 1.0)]
    newest, oldest = newest_against_oldest(matrix, 2)
    assert (newest["value"].to_list(), oldest["value"].to_list()) == ([0.0, 1.0], [1.0])


def test_facts_are_sorted_by_what_they_share_with_an_edit(tmp_path: Path) -> None:
    known = pl.DataFrame(
        {
            "prompt_id": ["a", "b", "c", "d", "e"],
            "subject": ["Sf1", "X", "X", "X", "X"],
            "relation": ["r1", "r0", "r0", "r0", "r1"],
            "object": ["old", "new", "old", "third", "new"],
        }
    )
    edit = {"subject": "Sf1", "relation": "r0", "target_new": "new", "target_true": "old"}
    both = "same relation, the new object of one edit and the old of another"
    assert kinds([edit], known) == [kind for kind in KINDS if kind != both]
    # What one edit teaches and another takes away is of neither kind alone.
    back = edit | {"subject": "Y", "target_new": "old", "target_true": "new"}
    assert kinds([edit, back], known) == ["same subject", both, both, KINDS[-2], KINDS[-1]]
    metric = {"a": "same_subject.exact"}
    rows = [
        Row(step, metric.get(p, "unrelated.exact"), value, prompt_id=p, logp_true=logp)
        for step, figures in {
            0: [(1, -1.0)] * 5,
            1: [(0, -3.0), (1, -1.0), (1, -1.0), (1, -1.0), (NAN, NAN)],
            2: [(0, -3.0), (1, -1.5), (1, -1.0), (0, -1.0), (1, -1.0)],
        }.items()
        for p, (value, logp) in zip("abcde", figures, strict=True)
    ]
    found = bled(written(tmp_path / "run", rows), known)
    first = {p: (kind, kept, change) for _, kind, p, kept, change in found.filter(pl.col("step") == 1).rows()}
    assert first["a"] == ("same subject", 0, -2)
    assert first["e"][:2] == ("nothing in common", 0)
    # The second edit has the other relation: then nothing is left that shares nothing.
    second = found.filter(pl.col("step") == 2)
    assert second["kind"].to_list()[-1] == "same subject"
    assert "nothing in common" not in {*second["kind"]}


def test_orders_that_lose_the_same_facts_agree(tmp_path: Path) -> None:
    ids = [f"f{i}" for i in range(8)]

    def run(name: str, order: list[str], lost: set[str]) -> RunFrames:
        end = {8: [float(fact not in lost) for fact in order]}
        rows = [Row(i, "efficacy.exact@now", 1.0, fact, "efficacy:0") for i, fact in enumerate(order, 1)]
        return written(tmp_path / name, rows + retested(end, order)[1:], 8, order)

    rng = np.random.default_rng(0)
    backward = ids[::-1]
    alike = fates([run("a", ids, {"f0", "f1"}), run("b", backward, {"f0", "f1"})])
    assert agreement(alike, rng)[0] == pytest.approx(1)
    # Whichever come first are lost: the fate goes with the position, and not with the fact.
    first = fates([run("c", ids, {*ids[:4]}), run("d", backward, {*backward[:4]})])
    assert agreement(first, rng)[0] == pytest.approx(-1)
    value, low, high = with_position(first, rng)[:3]
    assert value == pytest.approx(0.873, abs=1e-3)
    assert 0 < low <= value <= high
    none = fates([run("e", ids, set()), run("f", backward, set())])
    assert math.isnan(agreement(none, rng)[0])


def test_drift_at_a_loss_lies_between_the_tests_around_it(tmp_path: Path) -> None:
    rows = []
    for step, drift, kept in ((0, None, 1.0), (1, 0.2, 1.0), (2, 0.4, 0.8), (3, 1.0, NAN)):
        rows += [Row(step, "unrelated.exact", kept, prompt_id=f"p{i}") for i in range(2)]
        rows += [Row(step, "downstream.t.item", 1.0, prompt_id="i"), Row(step, "downstream.t.accuracy", 1.0)]
        if drift is not None:
            rows += [Row(step, "drift.relative", d, prompt_id=f"h.{d}") for d in (drift, drift / 2)]
    found = against_drift(written(tmp_path / "run", rows))
    assert found["drift"].to_list() == [0, 0.2, 0.4, 1.0]
    assert found["unrelated"].to_list() == [1, 1, 0.8, 0]
    assert drift_at_loss(found, "unrelated", 0.05) == pytest.approx(0.25)
    assert drift_at_loss(found, "unrelated", 0.5) == pytest.approx(0.4 + 0.3 / 0.8 * 0.6)
    assert drift_at_loss(found, "tasks", 0.05) == math.inf


def test_a_fall_is_a_share_of_what_was_there_and_is_censored(tmp_path: Path) -> None:
    def run(name: str, levels: dict[int, float]) -> RunFrames:
        rows = [
            Row(step, "unrelated.exact", float(i < round(20 * level)), prompt_id=f"p{i}")
            for step, level in levels.items()
            for i in range(20)
        ]
        return written(tmp_path / name, rows)

    # Of 16 right facts, 0.95 is 15.2: 15 are a fall, and a later recovery does not take it back.
    assert fall_step(run("a", {0: 0.8, 1: 0.8, 2: 0.75, 3: 0.8}), "unrelated.exact", 0.05) == (2, True)
    assert fall_step(run("b", {0: 1.0, 2: 1.0, 4: 0.95}), "unrelated.exact", 0.05) == (4, True)
    assert fall_step(run("c", {0: 1.0, 2: 1.0}), "unrelated.exact", 0.05) == (2, False)
    far = reach([(20, True), (40, True), (100, False), (60, True)])
    assert far.median == 40
    assert far.low == 20
    assert far.high == math.inf
    never = reach([(100, False)] * 4)
    assert (never.median, never.low) == (math.inf, math.inf)


def test_places_count_the_methods_that_are_clearly_further() -> None:
    def far(steps: list[int], fell: bool = True) -> object:
        return reach([(s, fell) for s in steps])

    ranked = [far([100] * 4, False), far([120] * 4, False), far([60, 60, 80, 80]), far([60, 40, 60, 60]), far([20] * 4)]
    assert furthest._places(ranked) == [1, 1, 3, 3, 5]  # type: ignore[arg-type]


def test_streams_leave_the_same_people_alone_and_repeat_nobody_early() -> None:
    world = load_world("lab-s-small")
    kept = {*world.people[-KEPT:]}
    people = len(world.people) - KEPT
    facts = {kind: stream_of(kind, 1) for kind in ("same", "half", "long")}
    for found in facts.values():
        assert not kept & {fact.subject for fact in found}
    assert len({fact.subject for fact in facts["same"]}) == len(facts["same"]) == people
    assert len({fact.subject for fact in facts["long"][:people]}) == people
    assert len(facts["long"]) == people * len(world.relations)
    assert len({f.relation for f in facts["half"]}) == len(world.relations) // 2
    assert len({f.subject for f in facts["half"]}) == len(facts["half"]) >= QUESTIONS["bleeding"].edits
    assert same("lab-s-small", 0) != same("lab-s-small", 1)
    assert sorted(same("lab-s-small", 0)) == sorted(same("lab-s-small", 1))


def stream_of(kind: str, number: int) -> list[Fact]:
    ids = {"same": same, "half": half, "long": long}[kind]("lab-s-small", number)
    by_id = {f.id: f for f in load_facts("lab", model="lab-s-small", seed=0 if kind == "same" else number)}
    return [by_id[i] for i in ids]


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_questions_recipes_find_their_facts(name: str, tmp_path: Path) -> None:
    asked = QUESTIONS[name]
    work = asked.work(Size(asked.model, asked.edits, 2), tmp_path)
    for file, content in work.files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    run = work.runs[next(reversed(work.runs))]
    assert len(load_stream(run.edits, run.model.name)) >= asked.edits
    assert all(
        str(tmp_path / "trained") in r.method.settings["checkpoint"] for n, r in work.runs.items() if "mend" in n
    )


def test_an_unknown_question_is_told_with_the_known() -> None:
    with pytest.raises(ConfigError, match="there is no question 'ages'; there are age, bleeding"):
        question("ages")


def test_differences_of_two_groups_and_signed_figures() -> None:
    rng = np.random.default_rng(0)
    ones, zeros = np.ones(30), np.zeros(30)
    a, b = [f"a{i}" for i in range(30)], [f"b{i}" for i in range(30)]
    assert unpaired([(ones, zeros), (ones, ones)], rng, [(a, b)] * 2).value == 0.5
    assert unpaired([(ones, zeros[:0])], rng, [(a, [])]).text == "dead"
    found = signed([-ones, zeros], rng, [a, a])
    assert found.value == -0.5
    assert -1 <= found.low <= -0.5 <= found.high <= 0


def test_a_pages_prose_outlives_what_is_made(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    fill(page, "Why?", "first\n")
    page.write_text(page.read_text() + "\nBecause.\n")
    fill(page, "Why?", "second \\1\n")
    assert page.read_text() == "# Why?\n\n<!-- made -->\nsecond \\1\n<!-- end -->\n\nBecause.\n"
    page.write_text("nothing")
    with pytest.raises(ConfigError, match="no place for what is made"):
        fill(page, "Why?", "third")


def test_a_run_goes_to_its_fall_or_as_far_as_asked_and_on_later(tmp_path: Path) -> None:
    asked = QUESTIONS["furthest"]
    whole = asked.work(Size(asked.model, 3, 1), tmp_path)
    recipe = whole.runs["furthest/kn/0"]
    probes = tuple(p.model_copy(update={"every": 2, "n": 6}) for p in recipe.probes if p.name == "unrelated")
    work = replace(whole, runs={"furthest/kn/0": recipe.model_copy(update={"probes": probes})}, trainings={})
    place = tmp_path / "runs" / "furthest" / "kn" / "0"
    told: list[str] = []

    def go(share: float, until: int) -> int:
        fall = making.Fall("unrelated.exact", share)
        there = making.make_until(fall, work, tmp_path, until=until, tell=told.append).paths
        return RunStore(place).reached() if there else -1

    # Any step is a fall by nothing, and no step one by twice of what there was.
    assert (go(0.0, 3), len(told)) == (2, 1)
    assert (go(0.0, 9), len(told)) == (2, 1)
    assert (go(2.0, 3), len(told)) == (3, 2)
    assert (go(2.0, 3), len(told)) == (3, 2)
    assert (go(2.0, 5), len(told)) == (5, 3)
    assert not RunStore(place).finished()
    assert load_run(place).journal["edit"].to_list() == [1, 2, 3, 4, 5]
    assert load_run(place).metric("unrelated.exact")["step"].unique().sort().to_list() == [0, 2, 4]


def test_asking_makes_the_runs_the_answer_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (age, order):
        monkeypatch.setattr(module, "FORMS", {"ft-c": {"name": "ft-c", "steps": 2}})
    # In this process: the engine's own processes are tested elsewhere.
    here = partial(making.make_until, making.Fall("unrelated.exact", 2.0))
    monkeypatch.setitem(QUESTIONS, "order", replace(QUESTIONS["order"], make=here))
    out, page, figure = tmp_path / "runs", tmp_path / "docs" / "page.md", tmp_path / "images" / "order.svg"
    command = ["ask", "order", "--edits", "4", "--samples", "2", "--out", str(out), "--processes", "1"]
    planned = CliRunner().invoke(app, [*command, "--dry-run", "--json"])
    assert json.loads(planned.stdout)["missing"] == ["orders/ft-c/0", "orders/ft-c/1"]
    assert not out.exists()
    done = CliRunner().invoke(app, [*command, "--json", "--page", str(page), "--figure", str(figure)])
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    (row,) = answer["tables"][0]["rows"]
    assert (row["method"], len(row["kept"]), answer["missing"]) == ("ft-c", 2, [])
    assert figure.read_text().startswith("<svg")
    assert "](../images/order.svg)" in page.read_text()
    assert f"--edits 4 --samples 2 --out {out}" in page.read_text()
