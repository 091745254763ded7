"""Undo costs no memory that grows with the edits: whole matrices are spilled to files that go with the journal."""

import gc
from random import Random

import pytest
import torch

from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.trajectory import Journal, Trajectory
from tiny import tiny_facts, tiny_model, tiny_text_file

_HELD = 7_000  # bytes: two updates of WISE here, none of FT-C


@pytest.mark.parametrize("method", ["ft-c", "wise"])
def test_what_an_in_memory_journal_holds_stays_flat(method, tmp_path) -> None:
    model = tiny_model("llama")
    chosen = {"statistics": {"source": str(tiny_text_file(tmp_path))}} if method == "wise" else {}
    editor = editor_class(method)(resolve_settings(method, model, {"layer": 1, **chosen}))
    editor.prepare(model, StatisticsStore(), Random(0))
    journal = Journal(held=_HELD)
    trajectory = Trajectory(model, editor, journal=journal)
    held, states = [], []
    for fact in tiny_facts(6):
        trajectory.advance([fact])
        tensors = [t for update in journal._updates.values() for t in update.tensors().values()]
        held.append(sum(t.numel() * t.element_size() for t in tensors))
        states.append({k: v.clone() for k, v in trajectory.masters().items()})
    assert held[-1] == held[-3] <= _HELD
    folder = journal._spilled
    assert folder is not None
    assert list(folder.iterdir())
    trajectory.undo(last=2)
    for path, weight in trajectory.masters().items():
        assert torch.equal(weight, states[3][path])
    with trajectory.at(0):
        pass
    trajectory.restore()
    del journal, trajectory
    gc.collect()
    assert not folder.exists()
