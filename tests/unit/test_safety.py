"""Safe by default: nothing from outside is unpickled or executed, and no address is called that was not named."""

import ast
import json
import socket
from pathlib import Path

import pytest
import torch

import errata
from errata.errors import ErrataError
from errata.models import load
from errata.studies.recipe import load_recipe
from errata.studies.run import run
from errata.trajectory import DiskJournal
from tiny import tiny_facts, tiny_model

SOURCE = Path(errata.__file__).parent
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


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_unpickles_executes_or_trusts(file: Path) -> None:
    calls, modules, keywords = calls_and_imports(file)
    assert not modules & UNSAFE_MODULES
    assert not {k for k in keywords if k.startswith(("trust_remote_code=", "shell=", "weights_only=False"))}
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
