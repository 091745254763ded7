"""Screening: a clean model for every fact, a ranking that finds what kills, predictions that know their limits."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from errata.analysis.prediction import auc, correlations, features, held_out, logistic, predict, roc, told_by
from errata.analysis.screening import load_screening
from errata.cli import app
from errata.editors.methods.rome import ROME
from errata.edits.jsonl import read_jsonl
from errata.errors import AnalysisError, ConfigError, RunError
from errata.probes.rows import Row
from errata.report.screen_charts import rocs, svg
from errata.studies import screen as module
from errata.studies.progress import Progress
from errata.studies.recipe import Recipe, load_recipe
from errata.studies.screen import ScreenStore, screen
from tiny import tiny_facts, tiny_model, tiny_text_file

N = 4


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    """A method that remembers, over a random GPT-2 in a directory and facts in a file."""
    root = tmp_path_factory.mktemp("screen")
    model = tiny_model("gpt2")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    for name, facts in (("facts", tiny_facts(N)), ("reversed", tiny_facts(N)[::-1])):
        lines = [json.dumps(f.to_mapping()) + "\n" for f in facts]
        (root / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    text = str(tiny_text_file(root))
    method = {"name": "memit-history", "layers": [1, 2], "ridge": 0.01, "covariance_weight": 10.0}
    method |= {"value": {"steps": 3}, "contexts": {"lengths": [[3, 2]]}, "statistics": {"source": text}}
    return load_recipe(
        {
            "model": {"name": str(root / "model")},
            "method": method,
            "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl")},
            "probes": [{"name": "proficiency"}, {"name": "perplexity", "source": text}, {"name": "drift"}],
        }
    )


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Path:
    return screen(recipe, tmp_path_factory.mktemp("whole") / "s")


def parts(directory: Path) -> list[bytes]:
    return [ScreenStore(directory).part(n).read_bytes() for n in range(N + 1)]


def test_every_fact_meets_the_clean_model(recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch) -> None:
    """Backwards, with weights and memory compared bit by bit after each fact, every fact has the same rows."""
    path = recipe.edits.path.replace("facts", "reversed")
    backwards = recipe.model_copy(update={"edits": recipe.edits.model_copy(update={"path": path})})
    first_edit, clean, held = module._first_edit, {}, []

    def watched(session, lower, fact):
        model, editor = session.model.model, session.editor
        if not clean:
            clean.update({name: p.clone() for name, p in model.state_dict().items()})
            held.append(str(editor.state_dict()))
        made = first_edit(session, lower, fact)
        assert all(torch.equal(p, clean[name]) for name, p in model.state_dict().items())
        assert str(editor.state_dict()) == held[0]
        assert made[0].norms
        return made

    monkeypatch.setattr(module, "_first_edit", watched)
    screen(backwards, tmp_path / "s")
    assert clean
    forth, back = (load_screening(d).frame.drop("rank", "number").sort("id") for d in (whole, tmp_path / "s"))
    assert forth.equals(back)
    assert forth["distance"].n_unique() == N


def test_a_screening_goes_on_where_it_was_killed_and_is_then_left_alone(
    recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch
) -> None:
    class Killed(Progress):
        def edited(self, entries, rows, seconds) -> None:
            if entries[0].edit == 2:
                raise KeyboardInterrupt

    out = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        screen(recipe, out, Killed())
    assert [n for n in range(N + 1) if ScreenStore(out).part(n).exists()] == [0, 1, 2]
    screen(recipe, out)
    assert parts(out) == parts(whole)
    monkeypatch.setattr(module, "_first_edit", lambda *_: pytest.fail("a fact was edited again"))
    screen(recipe, out)
    other = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": 5})})
    with pytest.raises(RunError, match=r"run\.seed is 0 there, and 5 now"):
        screen(other, out)
    with pytest.raises(ConfigError, match="batch_size is 2"):
        screen(recipe.model_copy(update={"edits": recipe.edits.model_copy(update={"batch_size": 2})}), out)


def test_a_divisor_near_zero_ranks_first_and_goes_into_the_worst_facts(tmp_path: Path, monkeypatch) -> None:
    """The published defect, constructed: the bare prompt's key of one subject is nearly orthogonal to the other."""
    chosen: list[str] = []
    divisor = ROME._divisor

    def nearly_orthogonal(self, model, path, fact, mean):
        key, output = divisor(self, model, path, fact, mean)
        if fact.id == "lab-0001":
            chosen.append(fact.subject)
            return key * 1e-4, output
        return key, output

    monkeypatch.setattr(ROME, "_divisor", nearly_orthogonal)
    out = tmp_path / "s"
    quick = [
        "method.statistics.samples=40",
        "method.ridge=0.1",
        "method.value.steps=4",
        "method.contexts.lengths=[[2, 2]]",
    ]
    options = [x for setting in quick for x in ("-o", setting)]
    arguments = ["screen", "--model", "lab-s", "-n", "3", "--worst", "2", "--out", str(out), "--json", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [r["verdict"] for r in told["ranked"]] == ["disabling", "ordinary", "ordinary"]
    assert told["ranked"][0]["subject"] == chosen[0]
    assert told["disabling"]["count"] == told["outsized"]["count"] == 1
    assert told["disabling"]["interval"] == pytest.approx([0.0615, 0.7923], abs=1e-3)
    assert told["distance"]["ratio"] > 1000
    assert "0 of 3" not in told["prediction"]["disabling"]["refused"]
    assert "1 of 3 facts are disabling" in told["prediction"]["disabling"]["refused"]
    worst = read_jsonl(str(out / "worst.jsonl"))
    assert [f.subject for f in worst] == [told["ranked"][0]["subject"], told["ranked"][1]["subject"]]
    assert chosen[0] in (out / "screen.html").read_text(encoding="utf-8")
    row = load_screening(out).frame.row(0, named=True)
    assert row["known.key_overlap"] == pytest.approx(1e-4, rel=0.2)


def made_up(out: Path, damage: list[float], figure: list[float], subjects: list[str] | None = None) -> Path:
    """Write a screening whose perplexity rises by `damage` floors, with one figure known beforehand."""
    store = ScreenStore(out)
    names = subjects or [f"s{i}" for i in range(len(damage))]
    out.mkdir(parents=True)
    (out / "screen.json").write_text(json.dumps({"config": {"method": {"name": "rome"}, "model": {"name": "m"}}}))
    facts = [{"id": str(i), "subject": s, "prompt": "{} is", "target_new": "x"} for i, s in enumerate(names)]
    (out / "facts.jsonl").write_text("".join(json.dumps(f) + "\n" for f in facts))
    store.write_rows("screen", 0, [Row(0, "perplexity", 10.0)])
    for n, (d, f) in enumerate(zip(damage, figure, strict=True), 1):
        rows = [Row(n, "update.relative", 1.0 + n / 1000, text="applied"), Row(n, "known.key_norm", f)]
        store.write_rows("screen", n, [*rows, Row(n, "perplexity", 10.0 * math.exp(2 * d))])
    return out


def test_a_model_that_says_nan_is_disabled_and_what_was_not_measured_is_judged_by_size(tmp_path: Path) -> None:
    found = load_screening(made_up(tmp_path / "a", [0.1, math.nan, 0.99, 1.0], [1.0, 2.0, 3.0, 4.0]))
    assert found.frame["number"].to_list() == [2, 4, 3, 1]
    assert found.frame["verdict"].to_list() == ["disabling", "disabling", "ordinary", "ordinary"]
    assert (found.share("disabling").count, found.share("damaging").of) == (2, 4)
    bare = made_up(tmp_path / "b", [0.0] * 3, [1.0] * 3)
    for n, size in ((0, 0.0), (1, 1.0), (2, 1.0), (3, 11.0)):
        rows = [Row(n, "update.relative", size, text="failed" if n == 2 else "applied")]
        ScreenStore(bare).write_rows("screen", n, rows)
    verdicts = load_screening(bare).frame.sort("number")["verdict"].to_list()
    assert verdicts == ["ordinary", "failed", "ordinary"]  # 11 is less than ten times the median of 1 and 11
    ScreenStore(bare).write_rows("screen", 3, [Row(3, "update.relative", math.nan, text="nonfinite")])
    assert load_screening(bare).frame["verdict"].to_list() == ["disabling", "ordinary", "failed"]
    with pytest.raises(RunError, match="no screening"):
        load_screening(tmp_path)


def test_auc_and_roc_against_counting_by_hand() -> None:
    scores, positive = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert auc(scores, positive) == 0.75  # of four pairs, only 0.35 against 0.4 is the wrong way round
    assert auc(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == 0.75  # a tie and a win
    assert math.isnan(auc(scores, np.zeros(4, bool)))
    false, true = roc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    assert false.tolist() == [0, 0, 0.5, 1]
    assert true.tolist() == [0, 0.5, 1, 1]


def test_a_prediction_needs_ten_of_either_kind_and_says_how_many_there_are(tmp_path: Path) -> None:
    harmless = load_screening(made_up(tmp_path / "a", [0.0] * 30, list(range(1, 31))))
    with pytest.raises(AnalysisError, match=r"0 of 30 facts are disabling: .*at least 10"):
        predict(harmless, "disabling", np.random.default_rng(0))
    nine = load_screening(made_up(tmp_path / "b", [2.0] * 9 + [0.0] * 21, list(range(1, 31))))
    with pytest.raises(AnalysisError, match="9 of 30"):
        predict(nine, "disabling", np.random.default_rng(0))
    rng = np.random.default_rng(1)
    figure = np.concatenate([np.exp(rng.normal(1, 1, 40)), np.exp(rng.normal(-1, 1, 80))])
    mixed = load_screening(made_up(tmp_path / "c", [2.0] * 40 + [0.0] * 80, figure.tolist()))
    told = predict(mixed, "disabling", np.random.default_rng(0), samples=200)
    (alone,) = told.figures
    assert alone.name == "log |key_norm|"
    assert alone.low < alone.auc < alone.high
    assert alone.auc == pytest.approx(0.92, abs=0.06)  # Φ(2/√2) of two normals two deviations apart
    assert told.whole.auc == pytest.approx(alone.auc, abs=0.03)
    again = predict(mixed, "disabling", np.random.default_rng(0), samples=200)
    assert (told.whole, told.figures) == (again.whole, again.figures)
    assert (told.positives, told.facts) == (40, 120)
    judged = mixed.judged["number"].to_numpy().astype(float)
    given = told_by(mixed, "disabling", "order", -judged, np.random.default_rng(0), samples=50)
    assert (given.auc, given.low, given.high) == (1, 1, 1)  # the first forty are the disabling ones
    drawn = svg(rocs({"one": told.curve, "other": roc(judged, judged > 60)}, "disabling", alone=True))
    assert all(f">{word}<" in drawn for word in ("one", "other", "of the others, called disabling"))


def test_ten_facts_of_one_subject_are_one_subject(tmp_path: Path) -> None:
    """Of any number of facts, a verdict that one subject alone has cannot be learned of others."""
    subjects = ["the same"] * 10 + [f"s{i}" for i in range(20)]
    one = load_screening(made_up(tmp_path / "a", [2.0] * 10 + [0.0] * 20, list(range(1, 31)), subjects))
    with pytest.raises(AnalysisError, match=r"10 of 30 facts are disabling: .* with 1 subjects .* and 20 that"):
        predict(one, "disabling", np.random.default_rng(0))


def test_a_correlation_with_the_size_has_its_interval(tmp_path: Path) -> None:
    """Sizes rise with the number of the fact: ρ of 1 with it, and of ranks 1 3 2 5 4 by hand 1 − 6·4/(5·24) = 0.8."""
    figure = [1.0, 3.0, 2.0, 5.0, 4.0]
    (rho,) = correlations(load_screening(made_up(tmp_path / "a", [0.0] * 5, figure)), np.random.default_rng(0)).values()
    assert rho.rho == pytest.approx(0.8)
    assert math.isnan(rho.low)
    # The same figures of forty subjects, and four times over of ten: only the first tell forty things apart.
    values = np.random.default_rng(3).normal(size=40) + np.arange(40) / 10
    subjects = [f"s{i // 4}" for i in range(40)]
    alone = load_screening(made_up(tmp_path / "b", [0.0] * 40, np.exp(values).tolist()))
    grouped = load_screening(made_up(tmp_path / "c", [0.0] * 40, np.exp(values).tolist(), subjects))
    (many,), (few,) = (correlations(s, np.random.default_rng(0)).values() for s in (alone, grouped))
    assert many.rho == few.rho
    assert many.low < many.rho < many.high
    assert (many.low, many.high) != (few.low, few.high)


def test_what_the_size_is_made_of_is_no_prediction_of_the_size(tmp_path: Path) -> None:
    """‖ΔW‖ is residual_norm / |divisor|: of a threshold on it the two would tell everything."""
    rng = np.random.default_rng(4)
    residual, divisor = np.exp(rng.normal(scale=0.3, size=(2, 60)))
    out = made_up(tmp_path / "a", [2.0] * 15 + [0.0] * 45, np.exp(rng.normal(size=60)).tolist())
    size = residual / divisor
    for n in range(1, 61):
        large = 100 if n <= 15 else 1
        rows = [Row(n, "update.relative", size[n - 1] * large, text="applied"), Row(n, "perplexity", 10.0)]
        rows += [Row(n, "known.residual_norm", residual[n - 1] * large), Row(n, "known.divisor", divisor[n - 1])]
        ScreenStore(out).write_rows("screen", n, [*rows, Row(n, "known.key_norm", float(rng.uniform(1, 2)))])
    found = load_screening(out)
    assert set(features(found)) == {"log |residual_norm|", "log |divisor|", "log |key_norm|"}
    assert found.share("outsized").count >= 10
    told = predict(found, "outsized", np.random.default_rng(0), samples=50)
    assert [f.name for f in told.figures] == ["log |key_norm|"]


def test_folds_of_different_scales_are_pooled_by_their_ranks() -> None:
    """Whatever the scale of each fold's regression, its scores spread over the same places."""
    rng = np.random.default_rng(5)
    subjects = np.array([f"s{i}" for i in range(50)])
    X = rng.normal(size=(50, 2))
    scores = held_out(X, X[:, 0] > 0.5, subjects, rng)
    assert sorted(scores.tolist()) == pytest.approx(sorted([(i + 0.5) / 10 for i in range(10)] * 5))


def test_no_subject_is_scored_by_what_was_learned_of_itself() -> None:
    """With a column for each subject, a split by facts would tell everything and one by subjects nothing."""
    subjects = np.array([f"s{i // 2}" for i in range(80)])
    positive = np.arange(80) // 2 < 15
    X = (subjects[:, None] == np.unique(subjects)[None]).astype(float)
    assert auc(logistic(X, positive)(X), positive) == 1.0
    assert auc(held_out(X, positive, subjects, np.random.default_rng(0)), positive) == pytest.approx(0.5, abs=0.2)


def test_the_regression_gives_as_many_positives_as_there_are() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 3)) * [1, 10, 0.1] + [0, 5, 0]
    y = X[:, 1] + rng.normal(size=60) > 8
    chances = 1 / (1 + np.exp(-logistic(X, y)(X)))
    assert chances.sum() == pytest.approx(y.sum(), rel=1e-3)  # the constant bears no penalty
    assert auc(chances, y) > 0.95
    assert pl.Series(chances).is_between(0, 1).all()
