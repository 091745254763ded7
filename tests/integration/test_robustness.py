"""Whatever happens to the process, the disk or a file: nothing recorded is lost, and what is damaged is named."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from errata.analysis.frames import load_run, probe_frame
from errata.errors import EditDataError, ErrataError
from errata.studies.correct import read_facts
from errata.studies.edited import open_edited
from errata.studies.recipe import load_recipe
from errata.studies.run import run
from tiny import tiny_facts, tiny_model

TESTS = Path(__file__).parents[1]
POINTS = os.environ.get("ERRATA_KILL_POINTS", "10")


def test_killed_starved_or_torn_at_any_call_nothing_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, str(TESTS / "robustness.py"), str(tmp_path), "--points", POINTS]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{POINTS} trials, 0 with")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    model = tiny_model("llama")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    (root / "facts.jsonl").write_text("".join(json.dumps(f.to_mapping()) + "\n" for f in tiny_facts(3)), "utf-8")
    recipe = {
        "model": {"name": str(root / "model")},
        "method": {"name": "ft-m", "layer": 0, "steps": 1},
        "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl")},
        "probes": [{"name": "proficiency"}],
    }
    return run(load_recipe(recipe), root / "run")


DAMAGED = ("run.json", "facts.jsonl", "journal.jsonl", "updates", "checkpoints", "probes")


@pytest.mark.parametrize("part", DAMAGED)
@pytest.mark.parametrize("damage", ["cut", "emptied", "scrambled"])
def test_a_damaged_file_is_named(finished: Path, tmp_path: Path, part: str, damage: str) -> None:
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    shutil.rmtree(directory / "checkpoints" if part == "updates" else tmp_path / "none", ignore_errors=True)
    places = [directory / part] if (directory / part).is_file() else sorted((directory / part).rglob("*.*"))
    file = [place for place in places if place.is_file()][0 if part == "updates" else -1]
    content = file.read_bytes()
    Random(0).shuffle(scrambled := bytearray(content))
    file.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "scrambled": bytes(scrambled)}[damage])

    def read() -> None:
        open_edited(directory).close()
        frames = load_run(directory)
        assert frames.n_edits == 3, f"{file} was read as if it were whole"
        probe_frame(directory, "proficiency")

    with pytest.raises(ErrataError) as caught:
        read()
    assert file.name in str(caught.value) or file.parent.name in str(caught.value)


def malformed(rng: Random) -> Iterator[str]:
    """Yield lines that are no facts: cut, of other types, with fields missing, empty or strange."""
    good: dict[str, Any] = {
        "subject": "Ada Bell",
        "prompt": "{} plays the",
        "target_new": "harp",
        "target_true": "flute",
    }
    strange = (None, 7, -1.5, True, [], {}, "", " ", "\x00", ["a"], {"a": 1}, "\ud83d")
    while True:
        kind, record = rng.randrange(4), dict(good)
        key = rng.choice(("subject", "prompt", "target_new"))
        if kind == 0:
            record.pop(key)
        elif kind == 1:
            record[key] = rng.choice(strange)
        elif kind == 2:
            yield json.dumps(record)[: rng.randrange(1, 60)].rstrip() + rng.choice(("", "\\", "}}", "\x01"))
            continue
        else:
            record["prompt"] = "".join(rng.choice("{ab ") for _ in range(9))
        yield json.dumps(record)


def test_ten_thousand_malformed_records_are_refused_by_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    lines = [line for line, _ in zip(malformed(Random(0)), range(10_000), strict=False)]
    lines.insert(5_000, json.dumps({"subject": "Ada Bell", "prompt": "{} plays the", "target_new": "harp"}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    told: list[str] = []
    (fact,) = read_facts(file, skip_bad=True, tell=told.append)
    assert fact.subject == "Ada Bell"
    numbers = [i for i in range(1, 10_002) if i != 5_001]
    assert len(told) == 10_000
    assert all(f"line {number}" in line for number, line in zip(numbers, told, strict=True))
    with pytest.raises(EditDataError, match="10000 of 10001 records cannot be edited"):
        read_facts(file)
