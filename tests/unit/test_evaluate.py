"""Past steps are measured beside a run as they would have been inside it."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from errata.analysis.frames import load_run, probe_frame
from errata.cli import app
from errata.errors import ConfigError, RunError
from errata.studies.evaluate import Evaluation, evaluate, open_steps, part_of
from errata.studies.recipe import ProbeSection, load_recipe
from errata.studies.run import run
from tiny import tiny_facts, tiny_model

FORGETTING = ProbeSection.model_validate({"name": "forgetting", "every": 3})


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("evaluate")
    model = tiny_model("gpt2")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    facts = [json.dumps(f.to_mapping()) for f in tiny_facts(8)]
    (root / "facts.jsonl").write_text("\n".join(facts) + "\n", encoding="utf-8")
    return {
        "model": {"name": str(root / "model")},
        "method": {"name": "ft-c", "steps": 3},
        "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl")},
        "probes": [{"name": "drift", "every": 4}],
        "run": {"name": "r", "checkpoint_every": 5},
    }


def rows(path: Path, probe: str) -> list[dict[str, object]]:
    """Return rows in the order of their steps, NaN as text so that it equals itself."""
    frame = probe_frame(path, probe).sort("step", maintain_order=True)
    return [{k: str(v) for k, v in row.items()} for row in frame.to_dicts()]


@pytest.mark.parametrize("method", [{"name": "ft-c", "steps": 3}, {"name": "grace", "steps": 5}])
def test_a_probe_beside_the_run_finds_what_it_would_have_found_inside(content, tmp_path, method) -> None:
    proficiency, drift = (ProbeSection.model_validate({"name": n, "every": 3}) for n in ("proficiency", "drift"))
    probes = [section.model_dump() for section in (FORGETTING, proficiency, drift)]
    inside = run(load_recipe({**content, "method": method, "probes": probes}), tmp_path / "inside")
    beside = run(load_recipe({**content, "method": method, "probes": probes[1:2]}), tmp_path / "beside")
    for section in (FORGETTING, drift):  # fine-tuning changes two modules, which the files of updates hold in any order
        steps = open_steps(beside, section)
        assert steps == [0, 3, 6, 8]
        evaluate(Evaluation(beside, section, (3, 8)))
        assert open_steps(beside, section) == [0, 6]
        evaluate(Evaluation(beside, section, (0, 6)))
        assert open_steps(beside, section) == []
        assert rows(beside, section.name) == rows(inside, section.name)
    assert load_run(beside).metrics() == load_run(inside).metrics()


def test_steps_that_the_run_measures_itself_are_left_to_it(content, tmp_path) -> None:
    out = run(load_recipe(content), tmp_path / "run")
    drift = ProbeSection(name="drift")
    assert open_steps(out, drift, [0, 2, 4, 8]) == [2]
    evaluate(Evaluation(out, drift, (2,)))
    found = probe_frame(out, "drift").select("step", "metric", "prompt_id")
    assert sorted(set(found["step"])) == [2, 4, 8]
    assert len(found) == len(found.unique())
    # Measured beside the run before the run came to it: once both are there, a step counts once.
    before = rows(out, "drift")
    held = pl.read_parquet(out / "probes" / "drift" / "part-000005.parquet")
    held.filter(pl.col("step") == 4).write_parquet(part_of(out, "drift", 4))
    assert rows(out, "drift") == before
    # A part of the run itself that is missing is still missed.
    (out / "probes" / "drift" / "part-000005.parquet").unlink()
    (out / "probes" / "other").mkdir()
    (out / "probes" / "other" / "part-000005.parquet").touch()
    with pytest.raises(RunError, match=r"drift/part-000005.parquet is missing"):
        load_run(out)


def test_a_run_that_is_going_on_is_read_and_not_touched(content, tmp_path) -> None:
    recipe = load_recipe(content)
    whole = run(recipe, tmp_path / "whole")
    evaluate(Evaluation(whole, FORGETTING, (3, 6)))
    out = run(recipe, tmp_path / "run")
    for file in out.rglob("*.parquet"):
        file.unlink()
    for state in (out / "checkpoints").rglob("state.json"):
        state.write_text(json.dumps({**json.loads(state.read_text()), "finished": False}))
    # The journal as a writer leaves it for a moment: six edits, and half of the seventh's line.
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    half = b"".join(lines[:6]) + lines[6][:20]
    (out / "journal.jsonl").write_bytes(half)
    assert open_steps(out, FORGETTING) == [0, 3, 6]
    evaluate(Evaluation(out, FORGETTING, (3, 6)))
    assert (out / "journal.jsonl").read_bytes() == half
    for step in (3, 6):
        there = part_of(whole, "forgetting", step)
        assert part_of(out, "forgetting", step).read_bytes() == there.read_bytes()


def test_rows_of_other_settings_and_steps_that_are_none_are_refused(content, tmp_path) -> None:
    out = run(load_recipe({**content, "edits": {**content["edits"], "batch_size": 4}}), tmp_path / "run")
    with pytest.raises(RunError, match="no step 3"):
        open_steps(out, FORGETTING, [3])
    evaluate(Evaluation(out, FORGETTING, (4,)))
    other = ProbeSection.model_validate({"name": "forgetting", "paraphrases": True})
    with pytest.raises(RunError, match="with paraphrases False, not True"):
        open_steps(out, other, [8])
    evaluation = ["evaluate", str(out), "--probe", "forgetting", "-o", "every=4", "--json"]
    done = CliRunner().invoke(app, evaluation)
    assert json.loads(done.stdout) == [{"run": str(out), "probe": "forgetting", "steps": [0, 8], "message": ""}]
    assert json.loads(CliRunner().invoke(app, evaluation).stdout)[0]["steps"] == []
    with pytest.raises(ConfigError, match="write numbers of edits"):
        CliRunner().invoke(app, [*evaluation, "--steps", "a"], catch_exceptions=False)
