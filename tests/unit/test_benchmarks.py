"""The benchmarks, small: they run, and what they compare is equal."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
benchmarks = pytest.importorskip("benchmarks", reason="benchmarks/ is not part of an installed package")

from benchmarks.accuracy import long_runs  # noqa: E402
from benchmarks.aims import aims  # noqa: E402
from benchmarks.edits import METHODS, Subject, batches, one_by_one  # noqa: E402
from benchmarks.growth import keys_in_memory, whole_edits  # noqa: E402
from benchmarks.guard import watched  # noqa: E402
from benchmarks.probes import retests  # noqa: E402
from benchmarks.shapes import Size  # noqa: E402
from benchmarks.solve import solves  # noqa: E402
from benchmarks.startup import starts  # noqa: E402
from benchmarks.tables import Table, fill  # noqa: E402

SMALL = Size("small", 3, 16, 2, 60)


def test_the_plain_implementation_finds_the_same_updates(tmp_path: Path) -> None:
    brief = {"contexts": {"lengths": [[2, 2]]}, "value": {"steps": 5}}
    one = one_by_one(Subject.random(SMALL, 2, torch.float64), METHODS, tmp_path, **brief)
    counts = {"memit": 3, "alphaedit": 3, "emmet": 3}
    together = batches(SMALL, counts, 2, 1, tmp_path, torch.float64, **brief)
    for record in [*one.measured, *together.measured]:
        assert max(record["error"]) < 1e-7, record
    assert [m["method"] for m in one.measured] == list(METHODS)
    assert all(len(m["fast"]) == 2 for m in one.measured)
    # All take the same steps: on random weights nothing stops early.
    assert all(m["evaluations"] == {"plain": [5, 5], "ours": [5, 5], "fast": [5, 5]} for m in one.measured)


def test_the_plain_solve_and_the_plain_scores_are_the_same() -> None:
    assert max(max(m["error"]) for m in solves({"a layer": 40}, (1, 3), 1).measured) < 1e-10
    for record in retests(SMALL, records=2, texts=3, new_tokens=3, alone=4, repeats=1).measured:
        assert record["off"] < 1e-5
        assert record["wrong"] == 0


def test_a_watch_changes_no_edit_and_its_cost_is_timed(tmp_path: Path) -> None:
    (record,) = watched(Subject.random(SMALL, 2), ("memit",), tmp_path).measured
    assert len(record["alone"]) == len(record["guarded"]) == 2
    assert record["apart"] == 0.0


def test_growth_is_measured_at_every_count(tmp_path: Path) -> None:
    for table in (whole_edits(SMALL, (2, 6), 1, tmp_path), keys_in_memory(16, (2, 6), 1, tmp_path)):
        assert all(set(m["seconds"]) == {2, 6} for m in table.measured)
    assert [m["what"] for m in starts(1, ("`import errata`",)).measured] == ["`import errata`"]


def test_long_runs_are_compared_with_fresh_solves() -> None:
    table = long_runs(40, (4, 60), 3, 20)
    assert [m["compared"] for m in table.measured] == [3 + 3 + 2] * 2  # the third twentieth is the last edit
    assert all(0 < m["worst"] < 1e-9 and m["factorizations"] > 1 for m in table.measured)


def test_what_was_aimed_at_stands_beside_what_was_measured() -> None:
    solved = [{"d": 3072, "n": n, "plain": [0.4, 0.5, 0.9], "ours": [0.005, 0.01, 0.02]} for n in (1, 100)]
    rows = {row[0]: row[2] for row in aims({"solve": solved}).rows}
    assert rows["solve for one key, d = 3,072 and 6,400"] == "d = 3,072: 50 ×"
    assert set(rows.values()) == {"d = 3,072: 50 ×", "not measured"}


def test_tables_stand_between_their_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: a -->\nold\n<!-- end -->\nafter\n<!-- table: b -->\nkept\n<!-- end -->\n")
    table = Table("a", ["method", "s"], [["memit", "1 s"]], [])
    for _ in range(2):
        fill(page, [table])
    assert page.read_text() == (
        "before\n<!-- table: a -->\n| method | s |\n| --- | --- |\n| memit | 1 s |\n<!-- end -->\nafter\n"
        "<!-- table: b -->\nkept\n<!-- end -->\n"
    )
    with pytest.raises(SystemExit, match="no place for the table 'c'"):
        fill(page, [Table("c", [], [], [])])


def test_the_page_has_a_place_for_every_table() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    names = ("machine", "aims", "startup", "solve", "edits-gpt2-small", "edits-gpt2-medium")
    more = (
        "batches-gpt2-small",
        "probes",
        "growth-edits",
        "growth-keys",
        "memory",
        "fast-lab",
        "fast-lab-bound",
        "accuracy",
        "probing",
        "guard-gpt2-small",
    )
    for name in (*names, *more):
        assert f"<!-- table: {name} -->" in page
