"""Whole runs in process: batches with a short last one, what on_disabled asks for, interruptions, foreign editors."""

import json
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from errata.editors import registry
from errata.editors.base import Editor
from errata.editors.settings import EditorSettings
from errata.editors.update import LowRank, Update
from errata.errors import ConfigError, ErrataError
from errata.studies.progress import Progress
from errata.studies.recipe import Recipe, load_recipe
from errata.studies.run import resume, run
from errata.studies.store import RunStore
from errata.trajectory import DiskJournal
from tiny import tiny_facts, tiny_model, tiny_text_file

EDITS = 11
BATCH = 3
STEPS = [3, 6, 9, 11]
LAYER = 1


class SurgeSettings(EditorSettings):
    """Settings of the editor below."""

    layer: int
    at: str = "none"
    """The id at which the update is `factor` times as large."""
    factor: float = 1e4


class Surge(Editor):
    """Stand for an editor of another package: propose what depends on the batch and on all that it remembers."""

    name = "surge"
    paper = "none"
    Settings = SurgeSettings

    def __init__(self, settings: SurgeSettings) -> None:
        self.settings = settings
        self._past = torch.zeros(1)
        self._seed = 0

    def prepare(self, model, statistics, rng) -> None:
        self._seed = rng.getrandbits(30)
        self._past = torch.zeros(model.hidden_size)

    def propose(self, model, batch) -> Update:
        path = model.mlp_out(self.settings.layer)
        generator = torch.Generator().manual_seed(self._seed + sum(hash(int(f.id)) for f in batch))
        left = torch.randn(model.hidden_size, 1, generator=generator)
        right = torch.randn(1, model.weight(path).shape[1], generator=generator)
        size = 1e-3 * (self.settings.factor if self.settings.at in {f.id for f in batch} else 1.0)
        left = size * (left + 0.1 * self._past[:, None])
        return Update({path: LowRank(left, right)}, {"size": size}, {"left": left / left.norm()})

    def remember(self, update: Update) -> None:
        self._past = self._past + update.memory["left"][:, 0]

    def state_dict(self) -> dict[str, Any]:
        return {"past": self._past.clone(), "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._past, self._seed = state["past"].clone(), state["seed"]


@pytest.fixture(autouse=True)
def _installed(monkeypatch) -> None:
    """Let `Surge` be found as an installed package's entry point is."""
    point = EntryPoint(name="surge", value=f"{__name__}:Surge", group="errata.editors")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point] if group == "errata.editors" else [])


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("policies")
    model = tiny_model("gpt2")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    facts = [json.dumps(f.to_mapping()) for f in tiny_facts(EDITS)]
    (root / "facts.jsonl").write_text("\n".join(facts) + "\n", encoding="utf-8")
    text = tiny_text_file(root)
    memit = {
        "name": "memit-history",
        "layers": [1, 2],
        "ridge": 0.01,
        "covariance_weight": 10.0,
        "value": {"steps": 2},
        "contexts": {"lengths": [[3, 2]]},
        "statistics": {"source": str(text), "samples": 20},
    }
    return {
        "model": {"name": str(root / "model")},
        "method": memit,
        "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl"), "batch_size": BATCH},
        "probes": [{"name": "proficiency"}, {"name": "forgetting", "every": 4}, {"name": "drift"}],
        "run": {"name": "r", "checkpoint_every": 5},
    }


def memit(content: dict[str, Any]) -> Recipe:
    return load_recipe(content)


def surge(content: dict[str, Any], at: str = "none", on_disabled: str = "continue", **method) -> Recipe:
    run = content["run"] | {"on_disabled": on_disabled}
    return load_recipe(content | {"method": {"name": "surge", "layer": LAYER, "at": at, **method}, "run": run})


def results(directory: Path) -> dict[str, bytes]:
    """Return every file that must not depend on interruptions; the journal without its seconds."""
    kept = {}
    for folder in ("updates", "probes", "checkpoints"):
        for file in sorted((directory / folder).rglob("*")):
            if file.is_file():
                kept[str(file.relative_to(directory))] = file.read_bytes()
    kept["journal"] = json.dumps([{**e, "seconds": 0} for e in journal(directory)]).encode()
    return kept


def journal(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]


def rows(directory: Path, probe: str) -> list[dict[str, Any]]:
    return [row for part in (directory / "probes" / probe).glob("*.parquet") for row in pq.read_table(part).to_pylist()]


def masters(directory: Path) -> dict[str, Tensor]:
    return load_file(sorted((directory / "checkpoints").glob("step-*"))[-1] / "weights.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Heard(Progress):
    """Remember what was told, and at which steps."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.steps: list[int] = []
        self.began: list[tuple[int, int]] = []

    def tell(self, message: str) -> None:
        self.messages.append(message)

    def begin(self, step: int, total: int) -> None:
        self.began.append((step, total))

    def edited(self, entries, rows, seconds) -> None:
        self.steps.append(entries[0].step)


def test_batches_of_three_end_with_a_short_one(content, tmp_path) -> None:
    heard = Heard()
    out = run(memit(content), tmp_path / "run", heard)
    assert heard.began == [(0, EDITS)]
    assert heard.steps == STEPS
    assert [(e["edit"], e["step"]) for e in journal(out)] == [(i, min(-(-i // 3) * 3, EDITS)) for i in range(1, 12)]
    assert {e["status"] for e in journal(out)} == {"applied"}
    assert sorted(f.name for f in (out / "updates").iterdir()) == [f"step-{s:06d}.safetensors" for s in STEPS]
    (short,) = (c for p, c in DiskJournal(out).update(11).changes.items() if p.endswith("1.mlp.c_proj"))
    assert short.left.shape[1] == 2
    assert sorted({row["step"] for row in rows(out, "drift")}) == STEPS
    again = Heard()
    before = results(out)
    assert results(resume(out, again)) == before
    assert again.steps == []
    assert f"{out} is finished at edit 11." in again.messages


def test_a_foreign_editor_runs_and_its_settings_are_checked(content, tmp_path) -> None:
    out = run(surge(content), tmp_path / "run")
    assert {e["status"] for e in journal(out)} == {"applied"}
    held = json.loads((out / "run.json").read_text())["config"]["method"]
    assert held == {"name": "surge", "layer": LAYER, "at": "none", "factor": 1e4}
    (path,) = masters(out)
    base = tiny_model("gpt2").weight(path)
    changes = [DiskJournal(out).update(step).changes[path] for step in STEPS]
    total = sum(change.left @ change.right for change in changes)
    torch.testing.assert_close(masters(out)[path], base + total, rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="factr"):
        run(surge(content, factr=2.0), tmp_path / "other")


def test_under_continue_a_disabling_edit_is_applied_and_the_run_goes_on(content, tmp_path) -> None:
    out = run(surge(content, "4"), tmp_path / "run")
    assert [e["status"] for e in journal(out)] == ["applied"] * 3 + ["disabling"] * 3 + ["applied"] * 5
    (path,) = masters(out)
    assert float(masters(out)[path].norm()) > 10 * float(tiny_model("gpt2").weight(path).norm())


def test_under_stop_the_run_ends_there_and_is_finished(content, tmp_path) -> None:
    heard = Heard()
    out = run(surge(content, "4", "stop"), tmp_path / "run", heard)
    assert [e["status"] for e in journal(out)] == ["applied"] * 3 + ["disabling"] * 3
    assert heard.steps == [3, 6]
    assert any(m.startswith("stopped: edit 4 (Dmitri Dvorak) — ‖ΔW‖/‖W₀‖ is") for m in heard.messages)
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    assert last.name == "step-000006"
    assert json.loads((last / "state.json").read_text())["finished"] is True
    # The end of a run is probed whatever a probe's interval.
    assert max(row["step"] for row in rows(out, "forgetting")) == 6
    before, again = results(out), Heard()
    assert results(resume(out, again)) == before
    assert again.steps == []
    assert f"{out} is finished at edit 6." in again.messages


def test_stop_lets_a_run_without_a_disabling_edit_pass(content, tmp_path) -> None:
    stopping, going = (run(surge(content, "none", p), tmp_path / p) for p in ("stop", "continue"))
    assert results(stopping) == results(going)


@pytest.mark.parametrize("factor", [1e4, 1e300])  # the latter is infinite in float32
def test_under_rollback_the_weights_are_those_without_that_batch(content, tmp_path, factor) -> None:
    out = run(surge(content, "4", "rollback", factor=factor), tmp_path / "run")
    assert [e["status"] for e in journal(out)] == ["applied"] * 3 + ["rolled-back"] * 3 + ["applied"] * 5
    lines = Path(content["edits"]["path"]).read_text().splitlines()
    facts = tmp_path / "facts.jsonl"
    facts.write_text("\n".join(lines[:3] + lines[6:]) + "\n")
    without = run(surge(content | {"edits": content["edits"] | {"path": str(facts)}}), tmp_path / "without")
    assert same(masters(out), masters(without))
    applied, all_of_them = ([e for e in journal(d) if e["status"] == "applied"] for d in (out, without))
    assert [(e["id"], e["norms"]) for e in applied] == [(e["id"], e["norms"]) for e in all_of_them]
    # Only what was applied is asked for again.
    retested = {row["edit_id"] for row in rows(out, "forgetting") if row["step"] == EDITS}
    assert retested == {"0", "1", "2", "6", "7", "8", "9", "10"}
    before = results(out)
    assert results(resume(out)) == before


def whole(recipe: Recipe, out: Path) -> dict[str, bytes]:
    return results(run(recipe, out))


@pytest.fixture(scope="module")
def uninterrupted(content, tmp_path_factory) -> dict[str, bytes]:
    return whole(memit(content), tmp_path_factory.mktemp("whole") / "run")


class Interrupting(Progress):
    """Interrupt the run after its n-th batch, before anything is saved of it but its journal."""

    def __init__(self, after: int) -> None:
        self.left = after

    def edited(self, entries, rows, seconds) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("seed", range(3))
def test_interrupted_by_its_listener_and_resumed_equals_uninterrupted(content, uninterrupted, tmp_path, seed) -> None:
    rng = Random(seed)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(memit(content), out, Interrupting(rng.randint(1, 4)))
    for _ in range(rng.randint(0, 2)):
        with pytest.raises(KeyboardInterrupt):
            resume(out, Interrupting(1))
    found = results(resume(out))
    assert sorted(found) == sorted(uninterrupted)
    assert [name for name in uninterrupted if found[name] != uninterrupted[name]] == []


WRITES = [(DiskJournal, "_store"), (DiskJournal, "_append"), (RunStore, "write_rows"), (RunStore, "write_checkpoint")]


@pytest.mark.parametrize(("owner", "name"), WRITES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_around_a_write_and_resumed_equals_uninterrupted(
    content, uninterrupted, tmp_path, monkeypatch, owner, name, when
) -> None:
    out = tmp_path / "run"
    original = getattr(owner, name)
    left = Random(f"{name} {when}").randint(2, 3)

    def interrupting(self, *args) -> None:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            raise KeyboardInterrupt
        original(self, *args)
        if left == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupting)
        with pytest.raises(KeyboardInterrupt):
            run(memit(content), out)
    found = results(resume(out))
    assert sorted(found) == sorted(uninterrupted)
    assert [n for n in uninterrupted if found[n] != uninterrupted[n]] == []


@pytest.mark.parametrize(
    ("policy", "after"), [("continue", 2), ("stop", 1), ("stop", 2), ("rollback", 1), ("rollback", 2), ("rollback", 3)]
)
def test_policies_survive_an_interruption(content, tmp_path, policy, after) -> None:
    recipe = surge(content, "4", policy)
    expected = whole(recipe, tmp_path / "whole")
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out, Interrupting(after))
    found = results(resume(out))
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_run_that_could_not_begin_leaves_its_place_free(content, tmp_path) -> None:
    (tmp_path / "short.txt").write_text("Two words.\n", encoding="utf-8")
    text = {"source": str(tmp_path / "short.txt"), "samples": 1}
    short = {"name": "rome", "layer": LAYER, "ridge": 0.0, "statistics": text}
    out = tmp_path / "run"
    with pytest.raises(ErrataError, match="gave 8 tokens, too few to invert it"):
        run(load_recipe(content | {"method": short}), out)
    run(memit(content), out)
    assert len(journal(out)) == EDITS
