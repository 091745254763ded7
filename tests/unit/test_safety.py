"""Safe by default: nothing from outside is unpickled or executed, and no address is called that was not named."""

import ast
import json
import re
import socket
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import errata
from errata.cli.plain import echo_json
from errata.errors import ErrataError
from errata.models import load
from errata.probes.lm_eval import LmEvalSettings
from errata.studies.edited import open_edited
from errata.studies.recipe import load_recipe
from errata.studies.run import run
from errata.trajectory import DiskJournal
from fake_run import make_run
from tiny import tiny_facts, tiny_model

SOURCE = Path(errata.__file__).parent
ROOT = Path(__file__).parents[2]
FILES = [*SOURCE.rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
# The sandbox runs what a model wrote, in a process of its own, and only where execute_code asks for it.
EXECUTES = {SOURCE / "probes" / "tasks" / "sandbox.py"}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen"}


def calls_and_imports(file: Path) -> tuple[set[str], set[str], set[str]]:
    """Return what a file calls, imports and passes by keyword."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    keywords = {f"{k.arg}={ast.unparse(k.value)}" for k in ast.walk(tree) if isinstance(k, ast.keyword)}
    return calls, {module.partition(".")[0] for module in modules}, keywords


@pytest.mark.parametrize("file", sorted(FILES), ids=lambda path: "/".join(path.parts[-3:]))
def test_no_file_unpickles_executes_or_trusts(file: Path) -> None:
    calls, modules, keywords = calls_and_imports(file)
    assert not modules & UNSAFE_MODULES
    refused = ("trust_remote_code=", "shell=", "weights_only=False", "allow_pickle=True")
    assert not {k for k in keywords if k.startswith(refused)}
    assert not calls & (UNSAFE_CALLS if file not in EXECUTES else UNSAFE_CALLS - {"exec"})


class Trap:
    """What a pickle may be: an instruction to be carried out by whoever reads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_pickled_weights_are_refused_unread(directory: Path, tmp_path: Path) -> None:
    (directory / "model.safetensors").unlink()
    mark = tmp_path / "executed"
    torch.save({"weight": Trap(mark)}, directory / "pytorch_model.bin")
    with pytest.raises(ErrataError, match="reads no pickled weights"):
        load(directory)
    assert not mark.exists()


def test_a_model_s_own_code_is_not_executed(directory: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (directory / "theirs.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass M: pass\n", encoding="utf-8")
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.M", "AutoModelForCausalLM": "theirs.M"}}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ErrataError):
        load(directory)
    assert not mark.exists()


def test_a_tokenizer_s_own_code_is_not_executed(directory: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (directory / "theirs.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass T: pass\n", encoding="utf-8")
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["theirs.T", "theirs.T"]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    with suppress(ErrataError):
        load(directory)
    assert not mark.exists()


def test_templates_escape_everything_but_what_comes_with_errata() -> None:
    templates = [file for file in SOURCE.rglob("*.j2") if file.suffixes[-2:] == [".html", ".j2"]]
    assert len(templates) > 4
    unescaped = {
        found for file in templates for found in re.findall(r"([^{]*)\|\s*safe\b(?!_json)", file.read_text("utf-8"))
    }
    assert {name.strip() for name in unescaped} == {"palette", "vega"}
    marked = [file.name for file in FILES for _ in re.findall(r"\bMarkup\(", file.read_text("utf-8"))]
    assert marked == ["page.py"]  # of `safe_json`, whose own test tries to break out of it
    assert not [file for file in templates if "autoescape" in file.read_text("utf-8")]
    for file in FILES:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Environment"):
                given = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert given.get("autoescape") == "True" or file.name == "card.py"  # Markdown, escaped by `plain`


def test_json_on_a_terminal_is_nothing_to_obey(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = {"\x9b31m": "é\x7f\x85\u202e\u2028\ud83d\n\x1b]0;x\x07", "n": [1, None]}
    for indent in (None, 1):
        echo_json(hostile, indent)
        out = capsys.readouterr().out
        assert json.loads(out) == hostile
        assert "é" in out
        assert not [c for c in out if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") and c != "\n"]


def test_generated_code_is_run_only_where_that_is_asked_for() -> None:
    assert LmEvalSettings().execute_code is False
    with pytest.raises(ValueError, match="set execute_code: true"):
        LmEvalSettings(tasks=("mbpp",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"model": {"name": "x"}, "method": {"name": "rome"}, "hook": "os.system"}}, "unknown key 'hook'"),
        ({"config": {"model": {"name": ["x"]}, "method": {"name": "rome"}}}, "model.name"),
        ({"config": "x"}, "holds no `config`"),
        ({"stream": None}, "holds no `stream`"),
    ],
)
def test_a_run_directory_is_checked_before_anything_it_names_is_loaded(change, said, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("errata.studies.session.load", lambda *args, **kwargs: pytest.fail("loaded"), raising=False)
    directory = make_run(tmp_path / "run", n=2, collapse=None)
    store = directory / "run.json"
    whole = {"model_fingerprint": "0", "sources": {}, "stream": {}, **json.loads(store.read_text())}
    store.write_text(json.dumps(whole | change), encoding="utf-8")
    with pytest.raises(ErrataError, match=re.escape(said)):
        open_edited(directory)


def test_a_run_on_local_files_calls_no_address(directory: Path, tmp_path: Path, monkeypatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: called.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: called.append(args) or [])
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(f.to_mapping()) + "\n" for f in tiny_facts(2)), encoding="utf-8")
    recipe = {
        "model": {"name": str(directory)},
        "method": {"name": "ft-m", "layer": 0, "steps": 1},
        "edits": {"dataset": "jsonl", "path": str(facts)},
        "probes": [{"name": "proficiency"}, {"name": "drift"}],
    }
    run(load_recipe(recipe), tmp_path / "run")
    assert len(DiskJournal(tmp_path / "run").entries) == 2
    assert called == []
