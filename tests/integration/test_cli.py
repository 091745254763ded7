"""The commands as a user types them: results on standard output, mistakes answered in one message."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from errata.cli import main
from tiny import tiny_facts, tiny_model, tiny_text_file


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A directory with a model, facts and text."""
    root = tmp_path_factory.mktemp("material")
    model = tiny_model("llama")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    (root / "facts.jsonl").write_text(
        "".join(json.dumps(f.to_mapping()) + "\n" for f in tiny_facts(6)), encoding="utf-8"
    )
    text = tiny_text_file(root)
    recipe = {
        "model": {"name": str(root / "model")},
        "method": {
            "name": "r-rome",
            "layer": 1,
            "ridge": 0.01,
            "value": {"steps": 3},
            "contexts": {"lengths": [[3, 2]]},
            "statistics": {"source": str(text)},
        },
        "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl")},
        "probes": [{"name": "proficiency"}, {"name": "drift"}, {"name": "forgetting", "every": 2}],
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return root


@pytest.fixture
def errata(monkeypatch, capsys):
    """Run the command line in this process; give back exit status, output and messages."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["errata", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as e:
            status = int(e.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys, errata.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'polars', 'altair')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_run_leaves_a_run_directory(errata, material, tmp_path) -> None:
    out = tmp_path / "run"
    status, printed, _ = errata("run", material / "recipe.yaml", "--out", out, "--json")
    assert status == 0
    assert json.loads(printed) == {"run": str(out), "edits": 6, "statuses": {"applied": 6}}
    assert {p.name for p in out.iterdir()} >= {
        "run.json",
        "journal.jsonl",
        "updates",
        "probes",
        "checkpoints",
        "facts.jsonl",
    }
    config = json.loads((out / "run.json").read_text())["config"]
    assert config["method"]["value"]["lr"] == 0.5, "defaults are resolved into the record"


def test_overrides_switch_the_method_of_any_recipe(errata, material, tmp_path) -> None:
    status, printed, _ = errata(
        "run", material / "recipe.yaml", "-o", "method.name=ft-c", "-o", "edits.n=2", "--out", tmp_path / "r", "--json"
    )
    assert status == 0
    assert json.loads(printed)["edits"] == 2


def test_an_infinite_setting_survives_the_record(errata, material, tmp_path) -> None:
    out = tmp_path / "r"
    errata(
        "run", material / "recipe.yaml", "-o", "method.value.clamp_norm_factor=.inf", "-o", "edits.n=1", "--out", out
    )
    config = json.loads((out / "run.json").read_text())["config"]
    assert config["method"]["value"]["clamp_norm_factor"] == float("inf")
    assert errata("resume", out)[0] == 0


def test_a_run_directory_is_not_overwritten(errata, material, tmp_path) -> None:
    errata("run", material / "recipe.yaml", "-o", "edits.n=1", "--out", tmp_path / "r")
    before = (tmp_path / "r" / "journal.jsonl").read_bytes()
    status, _, messages = errata("run", material / "recipe.yaml", "--out", tmp_path / "r")
    assert status == 1
    assert "errata resume" in messages
    assert (tmp_path / "r" / "journal.jsonl").read_bytes() == before


def test_dry_run_prints_the_plan_and_writes_nothing(errata, material, tmp_path) -> None:
    out = tmp_path / "run"
    status, printed, _ = errata("run", material / "recipe.yaml", "--out", out, "--dry-run", "--json")
    assert status == 0
    plan = json.loads(printed)
    assert plan["edits"] == 6
    assert plan["seconds_per_edit"] > 0
    assert not out.exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("edits.nn=3", "did you mean 'n'"),
        ("method.stepz=3", "unknown key 'stepz'"),
        ("method.value.stepz=3", "did you mean 'steps'"),
        ("method.name=rmoe", "Did you mean 'rome'"),
        ("method.layer=7", "layers 0 to 2"),
        ("edits.n=100", "100 facts"),
        ("edits.n=0", "edits.n"),
        ("edits.dataset=counterfacts", "counterfact"),
        ("model.name=/nowhere/at/all", "/nowhere/at/all"),
        ("model.dtype=float12", "float32"),
        ("model.device=cuda:9", "cuda"),
        ("run.on_disabled=explode", "on_disabled"),
        ("nonsense", "key=value"),
        ("probes=[{name: proficency}]", "proficiency"),
        ("probes=[{name: drift, evry: 2}]", "every"),
    ],
)
def test_a_mistake_is_named_without_a_traceback(errata, material, tmp_path, override, expected) -> None:
    out = tmp_path / "run"
    status, printed, messages = errata("run", material / "recipe.yaml", "-o", override, "--out", out)
    assert status == 1, messages
    assert expected in messages
    assert "Traceback" not in messages
    assert printed == ""
    assert not out.exists(), "a mistake leaves no directory behind"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prompt": "no place for the subject"}, "{}"),
        ({"target_new": " "}, "target_new"),
        ({"subject": ""}, "subject"),
        ({"subjet": "x"}, "subjet"),
        ({"target_new": "a\x00b"}, "U+0000"),
        ({"id": "0"}, "'0'"),
    ],
)
def test_a_malformed_fact_is_named(errata, material, tmp_path, change, expected) -> None:
    records = [f.to_mapping() for f in tiny_facts(3)]
    records[2] |= change
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    status, _, messages = errata("run", material / "recipe.yaml", "-o", f"edits.path={facts}", "--out", tmp_path / "r")
    assert status == 1
    assert expected in messages
    assert "Traceback" not in messages


def test_a_truncated_weights_file_is_named(errata, material, tmp_path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    for file in (material / "model").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    status, _, messages = errata("run", material / "recipe.yaml", "--model", broken, "--out", tmp_path / "r")
    assert status == 1
    assert "model.safetensors" in messages
    assert "Traceback" not in messages


def test_an_unreachable_model_is_named_quickly(errata, material, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, _, messages = errata("run", material / "recipe.yaml", "--model", "no/such-model", "--out", tmp_path / "r")
    assert status == 1
    assert "no/such-model" in messages
    assert "lab-s" in messages


def test_a_full_disk_damages_nothing(errata, material, tmp_path, monkeypatch) -> None:
    import errno
    import os

    out = tmp_path / "run"
    real = os.fsync
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    status, _, messages = errata("run", material / "recipe.yaml", "--out", out)
    assert status == 1
    assert "No space left on device" in messages
    assert "Traceback" not in messages
    monkeypatch.setattr(os, "fsync", real)
    lines = (out / "journal.jsonl").read_text().splitlines()
    assert all(json.loads(line)["edit"] == i for i, line in enumerate(lines, 1))
    status, printed, _ = errata("resume", out, "--json")
    assert status == 0
    assert json.loads(printed)["edits"] == 6


@pytest.mark.parametrize(("number", "in_words"), [(28, True), (30, True), (2, False)])
def test_a_disk_that_refuses_a_write_is_put_in_words_by_every_command(errata, monkeypatch, number, in_words) -> None:
    def refused() -> None:
        raise OSError(number, "what the system says", "the/file")

    monkeypatch.setattr("errata.cli.app", refused)
    if in_words:
        status, _, messages = errata("frames")
        assert (status, messages.startswith("error: the/file: what the system says. ")) == (1, True)
    else:  # a file that is not there is no refusal: whoever looked for it has to say so
        with pytest.raises(FileNotFoundError):
            errata("frames")


def test_catalogues_are_lists_of_names(errata) -> None:
    for command in ("methods", "models", "datasets", "tasks"):
        status, printed, _ = errata(command, "--json")
        assert status == 0
        assert all(record["name"] for record in json.loads(printed))
    assert {"ft-c", "rome", "r-rome", "memit", "memit-history"} <= {
        r["name"] for r in json.loads(errata("methods", "--json")[1])
    }


def test_a_method_page_states_settings_and_defaults(errata) -> None:
    status, printed, _ = errata("methods", "memit")
    assert status == 0
    assert "covariance_weight = 20000.0" in printed
    assert "value.clamp_norm_factor = 0.75" in printed


def test_the_version_is_told_without_a_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["errata", "--version"])
    with pytest.raises(SystemExit) as e:
        main()
    assert not e.value.code
    assert capsys.readouterr().out == f"errata {version('errata')}\n"
