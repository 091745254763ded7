"""A run killed at any instant and resumed is the run that was never killed, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from errata.cli import main
from errata.studies.recipe import load_recipe
from errata.studies.run import resume, run
from errata.studies.store import RunStore
from forked import DEADLINE, begin
from tiny import tiny_facts, tiny_model, tiny_text_file

EDITS = 23


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe over a random GPT-2 in a directory, a facts file and a text file."""
    root = tmp_path_factory.mktemp("resume")
    model = tiny_model("gpt2")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    facts = [json.dumps(f.to_mapping()) for f in tiny_facts(EDITS)]
    (root / "facts.jsonl").write_text("\n".join(facts) + "\n", encoding="utf-8")
    text = tiny_text_file(root)
    content = {
        "model": {"name": str(root / "model")},
        "method": {
            "name": "memit-history",
            "layers": [1, 2],
            "ridge": 0.01,
            "covariance_weight": 10.0,
            "value": {"steps": 4},
            "contexts": {"lengths": [[3, 2]]},
            "statistics": {"source": str(text)},
        },
        "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl")},
        "probes": [
            {"name": "proficiency"},
            {"name": "forgetting", "every": 4},
            {"name": "perplexity", "every": 6, "source": str(text)},
            {"name": "drift"},
            {"name": "text", "every": 10},
        ],
        "run": {"name": "r", "checkpoint_every": 5},
    }
    file = root / "recipe.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory) -> Path:
    """A run from its beginning to its end."""
    return run(load_recipe(recipe), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def whole(uninterrupted) -> dict[str, bytes]:
    """What it leaves behind."""
    return results(uninterrupted)


def results(directory: Path) -> dict[str, bytes]:
    """Return every file that must not depend on interruptions; the journal without its seconds."""
    kept = {}
    for folder in ("updates", "probes", "checkpoints"):
        for file in sorted((directory / folder).rglob("*")):
            if file.is_file():
                kept[str(file.relative_to(directory))] = file.read_bytes()
    lines = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    kept["journal"] = json.dumps(lines).encode()
    return kept


def errata(messages: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with messages.open("ab") as f:
        return subprocess.Popen([sys.executable, "-m", "errata", *arguments], env=environment, stdout=f, stderr=f)


def command(*arguments: str) -> None:
    sys.argv = ["errata", *arguments]
    main()


@pytest.mark.parametrize("seed", range(4))
def test_killed_and_resumed_equals_never_killed(recipe, whole, tmp_path, seed) -> None:
    rng = random.Random(seed)
    out = tmp_path / "run"
    messages = tmp_path / "messages"
    process = begin(messages, command, "run", str(recipe), "--out", str(out))
    for _ in range(2):
        upto = rng.randrange(1, EDITS)
        while process.is_alive() and lines_of(out) < upto:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join(DEADLINE)
        process = begin(messages, command, "resume", str(out))
    process.join(DEADLINE)
    assert process.exitcode == 0, messages.read_text()
    found = results(out)
    assert sorted(found) == sorted(whole)
    assert [name for name in whole if found[name] != whole[name]] == []


def test_paused_and_resumed_equals_never_paused(recipe, whole, tmp_path) -> None:
    out = tmp_path / "run"
    run(load_recipe(recipe), out, until=10)
    assert (lines_of(out), RunStore(out).reached(), RunStore(out).finished()) == (10, 10, False)
    resume(out, until=10)
    assert lines_of(out) == 10
    # Enough is asked of every step's rows, and what has been made is kept.
    resume(out, enough=lambda rows: rows[0].step == 15)
    assert RunStore(out).reached() == 15
    resume(out)
    found = results(out)
    assert [name for name in whole if found.get(name) != whole[name]] == []


def lines_of(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_ctrl_c_says_how_to_go_on(recipe, whole, tmp_path) -> None:
    out = tmp_path / "run"
    messages = tmp_path / "messages"
    process = errata(messages, "run", str(recipe), "--out", str(out))
    while process.poll() is None and lines_of(out) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert f"errata resume {out}" in messages.read_text()
    assert "Traceback" not in messages.read_text()
    assert results(resume(out)) == whole


def test_resume_of_a_finished_run_changes_nothing(uninterrupted, whole, tmp_path) -> None:
    out = shutil.copytree(uninterrupted, tmp_path / "run")
    assert results(resume(out)) == whole


def test_resume_names_the_first_edit_that_differs(recipe, tmp_path) -> None:
    from errata.errors import ResumeError

    content = yaml.safe_load(recipe.read_text())
    facts = tmp_path / "facts.jsonl"
    lines = Path(content["edits"]["path"]).read_text().splitlines()
    facts.write_text("\n".join(lines[:5]) + "\n")
    content["edits"]["path"] = str(facts)
    out = run(load_recipe(content), tmp_path / "run")
    changed = json.loads(lines[3]) | {"subject": "Somebody Else"}
    facts.write_text("\n".join([*lines[:3], json.dumps(changed), lines[4]]) + "\n")
    with pytest.raises(ResumeError, match=r"edit 4 .*Somebody Else"):
        resume(out)


def test_resume_refuses_another_model(recipe, tmp_path) -> None:
    from errata.errors import ResumeError

    content = yaml.safe_load(recipe.read_text())
    model = tiny_model("gpt2", seed=1)
    folder = tmp_path / "model"
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    out = run(load_recipe(content, ["edits.n=2"]), tmp_path / "run")
    description = json.loads((out / "run.json").read_text())
    description["config"]["model"]["name"] = str(folder)
    (out / "run.json").write_text(json.dumps(description))
    with pytest.raises(ResumeError, match="weights"):
        resume(out)
