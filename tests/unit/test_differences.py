"""Differences between methods on the same edits, and what is said of answers that are missing."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from errata.analysis.curves import summary
from errata.analysis.differences import differences, grouped
from errata.analysis.downstream import items_lost
from errata.analysis.frames import RunFrames, load_run
from errata.analysis.intervals import bootstrap_nested, mcnemar, paired_difference, wilson
from errata.analysis.seeds import figures_over_runs
from errata.analysis.survival import logrank
from errata.analysis.verdict import judge
from errata.edits.check import Check
from errata.probes import probe_class
from errata.probes.base import View
from errata.probes.rows import Row, write_rows
from errata.probes.tasks.f1 import weighted_f1
from errata.report.comparisons import differences_table, runs_table, survival_table
from errata.report.keys import keys
from errata.report.methods_table import methods_table
from errata.report.scorers_table import scorers_table
from errata.report.table3 import table3
from tiny import tiny_facts, tiny_model, tiny_text_file

YES, NO, NAN = 1.0, 0.0, math.nan


def write_run(path: Path, rows: list[Row], method: str = "rome", **changes: object) -> RunFrames:
    """Write a run directory with given rows; edits are made one a step."""
    steps = max((r.step for r in rows), default=1)
    config = {"model": {"name": "m"}, "method": {"name": method}, "edits": {"seed": 0}, "run": {"name": path.name}}
    config["run"] |= {k: v for k, v in changes.items() if k == "seed"}  # type: ignore[dict-item]
    stream = {"n": steps, "hashes": changes.get("hashes", [f"h{i}" for i in range(steps)])}
    path.mkdir(parents=True)
    info = {"name": path.name, "config": config, "model_fingerprint": "f", "stream": stream}
    (path / "run.json").write_text(json.dumps(info))
    facts = [{"id": str(i), "subject": f"S{i}", "prompt": "{} is", "target_new": "x"} for i in range(steps)]
    (path / "facts.jsonl").write_text("".join(json.dumps(f) + "\n" for f in facts))
    entries = [
        {"edit": i + 1, "step": i + 1, "id": f["id"], "subject": f["subject"], "status": "applied", "relative": 0.1}
        for i, f in enumerate(facts)
    ]
    (path / "journal.jsonl").write_text("".join(json.dumps({**e, "seconds": 0.1}) + "\n" for e in entries))
    write_rows(path / "probes" / "all" / "part-000001.parquet", rows)
    return load_run(path)


def now(values: list[float], metric: str = "efficacy.success@now") -> list[Row]:
    return [Row(i + 1, metric, v, str(i), "efficacy:0") for i, v in enumerate(values)]


def test_a_paired_interval_keeps_a_width_and_covers() -> None:
    same = np.ones(400)
    low, high = paired_difference(same, same)
    assert low < 0 < high
    assert high == pytest.approx(1.96 * 2**0.5 / 402, rel=1e-3)
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        first = (rng.random(60) < 0.8).astype(float)
        second = np.where(rng.random(60) < 0.3, (rng.random(60) < 0.4).astype(float), first)
        low, high = paired_difference(first, second)
        covered += low <= 0.3 * (0.8 - 0.4) <= high
    assert 0.92 <= covered / 400 <= 0.98
    assert all(map(math.isnan, paired_difference(np.array([]), np.array([]))))


def test_mcnemar_looks_at_what_differs_alone() -> None:
    first, second = np.array([1, 1, 1, 1, 1, 0, 1, 0.0]), np.array([0, 0, 0, 0, 0, 1, 1, 0.0])
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(first, first) == 1.0


def test_samples_are_resampled_before_their_edits() -> None:
    rng = np.random.default_rng(0)
    runs = [np.full(500, level) + rng.normal(0, 0.01, 500) for level in (0.0, 0.5, 1.0)]
    low, high = bootstrap_nested(runs, np.random.default_rng(1))
    assert low < 0.1  # three samples that disagree say little, however many edits each has
    assert high > 0.9
    alone = bootstrap_nested(runs[:1], np.random.default_rng(1))
    assert alone[1] - alone[0] < 0.01
    assert all(map(math.isnan, bootstrap_nested([], rng)))
    assert all(map(math.isnan, bootstrap_nested([np.array([NAN])], rng)))


def test_runs_are_compared_edit_by_edit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(100) < 0.5  # what both find hard: unpaired, this would hide the difference
    first = [NO if h and i % 5 else YES for i, h in enumerate(hard)]
    second = [NO if h else YES for h in hard]
    a = write_run(tmp_path / "a", now(second))
    b = write_run(tmp_path / "b", [*now(first), *now([NAN] * 100, "efficacy.generated@now")], "memit")
    c = write_run(tmp_path / "c", now(first), "other", hashes=["another"] * 100)
    groups = grouped([("a", a), ("b", b), ("c", c)])
    (d,) = differences(groups)  # c made other edits: nothing to pair
    assert (d.metric, d.first, d.second, d.n, d.pairs, d.missing) == ("efficacy.success@now", "b", "a", 100, 1, 0)
    assert d.value == pytest.approx(np.mean(first) - np.mean(second))
    assert 0 < d.low < d.value < d.high
    assert d.p == pytest.approx(2 / 2**7)  # seven edits, all one way
    table = differences_table([d])
    assert "100 edits" in table.markdown()
    assert table.as_json()[0]["low"] == d.low


def test_missing_answers_are_left_out_of_differences_and_counted(tmp_path: Path) -> None:
    metric = "efficacy.generated@now"
    a = write_run(tmp_path / "a", now([YES, NO, NAN, YES], metric))
    b = write_run(tmp_path / "b", now([YES, YES, YES, NAN], metric), "memit")
    (d,) = differences(grouped([("a", a), ("b", b)]))
    assert (d.value, d.n, d.missing) == (0.5, 2, 2)
    dead = write_run(tmp_path / "c", now([NAN] * 4, metric), "dead")
    (d,) = differences(grouped([("a", a), ("dead", dead)]))
    assert math.isnan(d.value)
    assert (d.n, d.missing) == (0, 4)
    assert "4 missing" in differences_table([d]).markdown()


def test_runs_that_differ_in_seeds_alone_are_one_group(tmp_path: Path) -> None:
    def rows(p: float, seed: int) -> list[Row]:
        return now((np.random.default_rng(seed).random(40) < p).astype(float).tolist())

    runs = [
        (
            f"{method}{seed}",
            write_run(tmp_path / f"{method}{seed}", rows(p, seed), method, seed=seed, hashes=[seed] * 40),
        )
        for method, p in (("rome", 0.5), ("memit", 0.9))
        for seed in (1, 2, 3)
    ]
    groups = grouped(runs)
    assert [(g.label, len(g.runs)) for g in groups] == [("rome (3 runs)", 3), ("memit (3 runs)", 3)]
    (d,) = differences(groups)
    assert (d.pairs, d.n) == (3, 120)
    assert d.low < d.value < d.high
    assert math.isnan(d.p)
    assert len(grouped(runs[:1])) == 1
    found = figures_over_runs(groups)
    assert [(f.metric, f.group, f.runs, f.n, f.missing) for f in found] == [
        ("efficacy.success@now", "rome (3 runs)", 3, 120, 0),
        ("efficacy.success@now", "memit (3 runs)", 3, 120, 0),
    ]
    means = [run.metric("efficacy.success@now")["value"].mean() for run in groups[0].runs]
    assert found[0].value == pytest.approx(np.mean(means))
    assert found[0].low < found[0].least < found[0].most < found[0].high
    assert figures_over_runs(grouped(runs[:1])) == []
    assert "3 runs, 120 edits" in runs_table(found).markdown()


def test_runs_that_disagree_widen_the_interval_over_runs_and_a_dead_one_is_missing(tmp_path: Path) -> None:
    def run(seed: int, share: float) -> tuple[str, RunFrames]:
        right = [float(i < 100 * share) for i in range(100)]
        rows = [*now(right), *items(100, right if share else [NAN] * 100)]
        return f"s{seed}", write_run(tmp_path / f"s{seed}", rows, seed=seed, hashes=[seed] * 100)

    agree = {f.metric: f for f in figures_over_runs(grouped([run(1, 0.8), run(2, 0.8)]))}["efficacy.success@now"]
    assert (agree.low, agree.high) == pytest.approx(wilson(80, 100), abs=0.02)  # the same hundred facts
    apart = {f.metric: f for f in figures_over_runs(grouped([run(3, 1.0), run(4, 0.6), run(5, 0.0)]))}
    wide = apart["efficacy.success@now"]
    assert wide.high - wide.low > 4 * (agree.high - agree.low)
    tasks = apart["downstream.a.accuracy"]
    assert (tasks.runs, tasks.n, tasks.missing) == (2, 200, 100)
    assert (tasks.least, tasks.most) == (0.6, 1.0)
    assert "100 missing" in runs_table([tasks]).markdown()


def test_logrank_is_scipys_and_none_without_events() -> None:
    short = pl.DataFrame({"edit": range(40), "after": [5] * 20 + [10] * 20, "event": [True] * 40})
    long = pl.DataFrame({"edit": range(40), "after": [40] * 40, "event": [True] * 10 + [False] * 30})
    assert logrank(short, long) < 1e-6
    assert logrank(short, short) == pytest.approx(1.0)
    assert math.isnan(logrank(long.with_columns(event=False), long.with_columns(event=False)))
    assert math.isnan(logrank(short, short.clear()))


def items(step: int, values: list[float], task: str = "a") -> list[Row]:
    rows = [Row(step, f"downstream.{task}.item", v, prompt_id=f"{task}:{i}") for i, v in enumerate(values)]
    share = sum(v == 1 for v in values) / len(values)
    return [*rows, Row(step, f"downstream.{task}.f1", share), Row(step, f"downstream.{task}.accuracy", share)]


def test_loss_of_downstream_is_over_the_same_items(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [*items(0, [YES] * 90 + [NO] * 10), *items(10, [YES] * 90 + [NO] * 10)])
    lost = items_lost(run)
    assert lost is not None
    assert (lost.value, lost.n, lost.missing) == (0, 100, 0)
    assert -0.06 < lost.low < 0 < lost.high < 0.06  # of four tasks that lost nothing Wilson would say up to a half
    run = write_run(tmp_path / "b", [*items(0, [YES] * 90 + [NO] * 10), *items(10, [YES] * 45 + [NAN] * 55)])
    lost = items_lost(run)
    assert lost is not None
    assert lost.value == pytest.approx(0.5)  # no valid answer is not a right one
    assert lost.missing == 55
    assert 0.35 < lost.low < lost.value < lost.high < 0.65
    assert items_lost(write_run(tmp_path / "c", items(0, [YES] * 3))) is None
    (cell,) = table3([("c", run, judge(run))]).rows["loss of downstream before collapse"]
    assert "55 missing" in cell.text


def test_weighted_f1_has_an_interval_over_its_items(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def classified(step: int, task: str, gold: list[float], given: list[float]) -> list[Row]:
        both = (("gold", gold), ("given", given))
        rows = [
            Row(step, f"downstream.{task}.{what}", v, prompt_id=f"{task}:{i}")
            for what, vs in both
            for i, v in enumerate(vs)
        ]
        codes = [np.nan_to_num(np.array(v), nan=-1).astype(int) for v in (gold, given)]
        return [*rows, Row(step, f"downstream.{task}.f1", float(weighted_f1(*codes)))]

    gold = [NO, YES] * 100
    # Every second answer is YES whatever is true, some are none: on accuracy's interval alone F1 would not be told.
    given = [float(rng.choice([g, YES, NAN], p=[0.6, 0.3, 0.1])) for g in gold]
    silent = [*classified(2, "a", gold, [NAN] * 200)[:-1], Row(2, "downstream.a.f1", NAN)]
    rows = [*classified(0, "a", gold, gold), *classified(1, "a", gold, given), *silent, Row(1, "downstream.b.f1", 0.5)]
    found = summary(write_run(tmp_path / "a", rows)).filter(pl.col("metric") == "downstream.a.f1")
    perfect, some, dead = found.select("value", "low", "high", "n").iter_rows()
    assert perfect[0] == perfect[2] == 1.0
    assert 0.97 < perfect[1] < 1.0
    # Against a bootstrap of its own, over items drawn one resample at a time.
    truth, said = (np.nan_to_num(np.array(v), nan=-1).astype(int) for v in (gold, given))
    drawn = [weighted_f1(truth[i], said[i]) for i in (rng.integers(0, 200, 200) for _ in range(2000))]
    assert some[1:3] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)
    assert some[3] == dead[3] == 200
    assert all(map(math.isnan, dead[:3]))
    (other,) = summary(load_run(tmp_path / "a")).filter(pl.col("metric") == "downstream.b.f1").select("low").rows()
    assert math.isnan(other[0])


def test_a_missing_answer_is_in_no_mean_and_in_every_table(tmp_path: Path) -> None:
    values = [YES] * 30 + [NAN] * 10 + [NO] * 20
    rows = [*now(values), *now(values, "efficacy.generated@now"), *now([NAN] * 60, "portability.generated@now")]
    run = write_run(tmp_path / "a", rows)
    curves = summary(run)
    whole = scorers_table(run)
    assert whole.columns[:2] == ("asked", "when")
    first = next(r for r in whole.records if r["scorer"] == "generated" and r["kind"] == "efficacy")
    assert (first["value"], first["n"], first["missing"]) == (pytest.approx(0.6), 60, 10)
    dead = next(r for r in whole.records if r["kind"] == "portability")
    assert math.isnan(dead["value"])
    assert any("dead, 60 missing" in text for row in whole.rows for text in row)
    step = curves.filter(
        (pl.col("metric") == "efficacy.success@now") & (pl.col("window") == 1) & (pl.col("step") == 35)
    )
    assert math.isnan(step["value"].item())
    assert step["missing"].item() == 1
    window = curves.filter(
        (pl.col("metric") == "efficacy.success@now") & (pl.col("window") == 50) & (pl.col("step") == 40)
    )
    assert (window["value"].item(), window["missing"].item(), window["n"].item()) == (1.0, 10, 40)
    (text,) = [t[0] for t in methods_table([("a", run, judge(run))]).texts]
    assert text == "60 % (46–72), 10 missing"


def test_survival_is_laid_out_with_its_test(tmp_path: Path) -> None:
    def rows(life: int) -> list[Row]:
        made = now([YES] * 20, "efficacy.exact@now")
        later = [
            Row(step, "efficacy.exact@retest", float(step - i <= life), str(i), "efficacy:0")
            for step in (5, 10, 15, 20)
            for i in range(step)
        ]
        return [*made, *later]

    groups = grouped([(m, write_run(tmp_path / m, rows(n), m)) for m, n in (("short", 5), ("long", 50))])
    table = survival_table(groups)
    assert [row[0] for row in table.rows] == ["short", "long"]
    assert table.records[0]["events"] > 0
    assert table.records[1]["events"] == 0
    assert table.records[1]["p"] < 0.01
    assert "| long | 20 | 0 | more than half outlived the run | – | < 0.001 |" in table.markdown()


def test_every_probe_of_a_dead_model_reaches_the_tables_as_missing(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    model.parameter(model.mlp_out(1)).data.fill_(NAN)
    facts = tiny_facts(4)
    facts = [replace(f, checks=(Check(kind="alias", prompt=f.paraphrase_prompts[0], answers=("x",)),)) for f in facts]
    W = torch.ones(3, 4)
    settings: dict[str, dict[str, object]] = {
        "perplexity": {"source": str(tiny_text_file(tmp_path)), "lines": 3},
        "generated": {"new_tokens": 2},
        "ripple": {"new_tokens": 2},
        "fluency": {"new_tokens": 2},
        "entropy": {"new_tokens": 2},
    }
    rows: list[Row] = []
    for name in (
        "proficiency",
        "forgetting",
        "generated",
        "ripple",
        "text",
        "drift",
        "entropy",
        "fluency",
        "perplexity",
    ):
        cls = probe_class(name)
        probe = cls(cls.Settings.model_validate(settings.get(name, {})))
        probe.prepare(model, facts)
        for step in range(len(facts) + 1):
            edited = facts[:step]
            drifted = {"base": {"h": W}, "masters": {"h": W * NAN}} if step else {}
            rows += probe.measure(View(model, step, edited[-1:], edited, step == len(facts), **drifted))
    run = write_run(tmp_path / "dead", sorted(rows, key=lambda row: row.step))
    known = summary(run).filter(pl.col("value").is_not_nan() & (pl.col("step") > 0))
    assert known["metric"].to_list() == []
    verdict = judge(run)
    (row,) = methods_table([("dead", run, verdict)]).texts
    assert row[:4] == ("dead, 4 missing", "dead, 8 missing", "dead, 8 missing", "dead, 4 missing")
    cells = table3([("dead", run, verdict)]).rows
    assert cells["efficacy"][0].text == "dead, 4 missing"
    texts = [text for row in scorers_table(run).rows for text in row[2:]]
    assert texts
    assert all("missing" in text or text == "–" for text in texts)
    figures = {key.label: (key.value, key.detail) for key in keys(verdict, summary(run))}
    assert figures["New edits taken"][0] == "dead"
    assert "0 %" not in str(figures)
