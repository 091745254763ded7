"""A metric of one's own is in report and comparison as what it says it is; corrections without a true object too."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from errata.analysis.curves import summary
from errata.analysis.differences import differences, grouped
from errata.analysis.frames import load_run
from errata.analysis.intervals import mean_interval, wilson
from errata.analysis.seeds import figures_over_runs
from errata.probes.rows import Row, write_rows
from errata.report.compare import compare
from errata.report.page import report
from fake_run import make_run

N = 60


def with_own(folder: Path, level: float, seed: int) -> Path:
    """A run with two metrics of another package: a log rank that is 0 mostly, and a share."""
    run = make_run(folder, n=N, collapse=None)
    info = json.loads((run / "run.json").read_text())
    info["own_metrics"] = {"ranks": {"hit": "share"}}
    info["config"]["run"]["seed"] = seed
    (run / "run.json").write_text(json.dumps(info))
    facts = [json.loads(line)["id"] for line in (run / "facts.jsonl").read_text().splitlines()]
    rows = [Row(i, "log_rank@now", level * (i % 3 == 0), key) for i, key in enumerate(facts, 1)]
    rows += [Row(N, "hit", float(i % 2 == 0), key) for i, key in enumerate(facts)]
    # All probes of a run write theirs at the same checkpoints.
    for part in sorted((run / "probes" / "proficiency").glob("*.parquet")):
        write_rows(run / "probes" / "ranks" / part.name, rows if part.name == f"part-{N:06d}.parquet" else [])
    return run


def test_what_a_value_is_is_declared_and_never_guessed(tmp_path) -> None:
    zeros = np.zeros(20)
    assert mean_interval(zeros, np.random.default_rng(0)) == (0.0, 0.0)  # numbers that do not vary
    assert mean_interval(zeros, np.random.default_rng(0), share=True) == wilson(0, 20)
    run = load_run(with_own(tmp_path / "a", 2.0, 0))
    assert run.own_metrics == {"hit": "share", "log_rank@now": "number"}
    hit = summary(run).filter(pl.col("metric") == "hit").row(-1, named=True)
    assert (hit["low"], hit["high"]) == wilson(N / 2, N)


def test_own_metrics_are_in_report_differences_and_over_runs(tmp_path) -> None:
    runs = [with_own(tmp_path / name, level, seed) for name, level, seed in (("a", 2.0, 0), ("b", 5.0, 1))]
    page, _ = report(runs[0], tmp_path / "report.html")
    assert all(metric in page.read_text() for metric in ("log_rank@now", "a probe of another package"))
    loaded = [(path.name, load_run(path)) for path in runs]
    (group,) = grouped(loaded)
    over = {f.metric: f for f in figures_over_runs([group])}
    assert (over["log_rank@now"].share, over["hit"].share) == (False, True)
    _, tables, _ = compare(runs, tmp_path / "compare.html")
    assert {"log_rank@now", "hit"} <= set(tables.methods.columns)
    assert "log_rank@now" in tables.methods.latex().replace(r"\_", "_")
    assert "log_rank@now" in tables.runs.latex().replace(r"\_", "_")
    assert tables.runs.latex().startswith("\\begin{tabular}{lllll}\n\\toprule\nmetric & of")
    assert "log_rank@now" in (tmp_path / "compare.html").read_text()


def test_a_difference_of_numbers_is_not_in_points(tmp_path) -> None:
    runs = [with_own(tmp_path / name, level, 0) for name, level in (("a", 2.0), ("b", 5.0))]
    info = json.loads((runs[1] / "run.json").read_text())
    info["config"]["method"]["name"] = "other"
    (runs[1] / "run.json").write_text(json.dumps(info))
    found = {d.metric: d for d in differences(grouped([(p.name, load_run(p)) for p in runs]))}
    assert found["log_rank@now"].value == pytest.approx(1.0)
    assert math.isnan(found["log_rank@now"].p)
    _, tables, _ = compare(runs, tmp_path / "compare.html")
    (row,) = [row for row in tables.differences.rows if row[0] == "log_rank@now"]
    assert row[3] == "+1"


def test_corrections_without_a_true_object_are_compared_by_exact_match(tmp_path) -> None:
    runs = [make_run(tmp_path / name, n=N, collapse=None) for name in ("a", "b")]
    for part in [part for run in runs for part in (run / "probes" / "proficiency").glob("*.parquet")]:
        rows = pl.read_parquet(part)
        rows.filter(
            ~pl.col("metric").str.contains("success") & ~pl.col("metric").str.contains("neighborhood")
        ).write_parquet(part)
    page, tables, _ = compare(runs, tmp_path / "compare.html")
    columns = dict(zip(tables.methods.columns, tables.methods.texts[0], strict=True))
    assert columns["efficacy"].endswith(", exact match")
    assert all("exact match" in cell.word for cell in tables.table3.rows["efficacy"])
    assert "By exact match: no true object is given." in page.read_text()
