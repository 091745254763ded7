"""The journal: what is on disk is what happened, however the last write ended."""

import json
import math
import os
import resource
from pathlib import Path

import pytest
import torch

from errata.analysis.frames import journal_entries
from errata.editors.base import Editor
from errata.editors.settings import EditorSettings
from errata.editors.update import Dense, LowRank, Update
from errata.errors import RunError
from errata.trajectory import DiskJournal, Entry, Journal, Trajectory
from shove import LAYER, Shove, ShoveSettings
from tiny import tiny_facts, tiny_model


def batch(step: int, size: int = 2, status: str = "applied") -> list[Entry]:
    return [
        Entry(
            edit=step - size + 1 + i,
            step=step,
            id=f"f{step - size + 1 + i}",
            subject="Inés 王",
            status=status,
            norms={"mlp": 0.5},
            diagnostics={"loss": math.nan, "divisor": math.inf},
        )
        for i in range(size)
    ]


def some_update(seed: int = 0) -> Update:
    generator = torch.Generator().manual_seed(seed)
    low = LowRank(torch.randn(4, 2, generator=generator), torch.randn(2, 3, generator=generator))
    return Update({"a.b": low, "a.c": Dense(torch.randn(4, 3, generator=generator))}, memory={"a.b": torch.ones(3, 2)})


def test_a_cut_at_any_byte_of_the_last_batch_loses_that_batch_and_nothing_else(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    for step in (2, 4):
        journal.record(batch(step), None)
    file = tmp_path / "journal.jsonl"
    two = file.read_bytes()
    journal.record(batch(6), None)
    three = file.read_bytes()
    for cut in range(len(two), len(three)):
        file.write_bytes(three[:cut])
        recovered = DiskJournal(tmp_path)
        assert [e.edit for e in recovered.entries] == [1, 2, 3, 4], cut
        assert file.read_bytes() == two, cut
    recovered.record(batch(6), None)
    assert file.read_bytes() == three


def test_entries_come_back_as_they_were_nan_and_infinity_included(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.record(batch(1, 1), None)
    journal.record(batch(2, 1, "rolled-back"), None)
    again = DiskJournal(tmp_path)
    assert repr(again.entries) == repr(journal.entries)
    assert again.step == 2
    assert again.active_steps() == [1]


def test_undone_batches_stay_undone_and_the_count_goes_on(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    for step in (2, 4, 6):
        journal.record(batch(step), some_update(step))
    journal.undo([4])
    assert journal.active_steps() == [2, 6]
    again = DiskJournal(tmp_path)
    assert [e.status for e in again.entries] == ["applied"] * 2 + ["undone"] * 2 + ["applied"] * 2
    assert again.active_steps(until=4) == [2]
    assert again.step == 6


@pytest.mark.parametrize("line", ["not json", "[1]", "5", '{"edit": 1}', '{"unknown": 1}'])
def test_damage_before_the_last_batch_is_refused_with_the_line(tmp_path: Path, line: str) -> None:
    DiskJournal(tmp_path).record(batch(1, 1), None)
    file = tmp_path / "journal.jsonl"
    file.write_text(file.read_text() + line + "\n" + file.read_text())
    with pytest.raises(RunError, match=r"journal\.jsonl, line 2 is damaged"):
        DiskJournal(tmp_path)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("change", ["deleted", "doubled"])
def test_a_lost_or_doubled_line_is_refused_with_its_number(tmp_path: Path, size: int, change: str) -> None:
    journal = DiskJournal(tmp_path)
    for step in (size, 2 * size, 3 * size):
        journal.record(batch(step, size), None)
    file = tmp_path / "journal.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    for at in range(len(lines) - (change == "deleted")):  # the last one lost is what a crash leaves
        file.write_text("".join(lines[:at] + lines[at : at + 1] * 2 * (change == "doubled") + lines[at + 1 :]))
        wrong = at + 1 + (change == "doubled")
        for read in (lambda: DiskJournal(tmp_path), lambda: journal_entries(file)):
            with pytest.raises(RunError, match=rf"journal\.jsonl, line {wrong} is damaged"):
                read()


@pytest.mark.parametrize("second", [{"step": 3}, {"step": "2"}, {"step": 1}, {"edit": 1}, {"undo": [2]}])
def test_the_lines_of_a_batch_belong_together(tmp_path: Path, second: dict[str, object]) -> None:
    DiskJournal(tmp_path).record(batch(2), None)
    file = tmp_path / "journal.jsonl"
    first, line = file.read_text().splitlines()
    file.write_text(f"{first}\n{json.dumps(json.loads(line) | second)}\n")
    for read in (lambda: DiskJournal(tmp_path), lambda: journal_entries(file)):
        with pytest.raises(RunError, match="line 2 is damaged"):
            read()


def test_a_foreign_byte_in_the_middle_is_refused(tmp_path: Path) -> None:
    DiskJournal(tmp_path).record(batch(1, 1), None)
    file = tmp_path / "journal.jsonl"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    with pytest.raises(RunError, match="line 1 is damaged"):
        DiskJournal(tmp_path)


def test_updates_come_back_bit_for_bit(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    update = some_update()
    journal.record(batch(1, 1), update)
    again = DiskJournal(tmp_path).update(1)
    assert again.tensors().keys() == update.tensors().keys()
    assert all(torch.equal(t, again.tensors()[k]) for k, t in update.tensors().items())
    assert again.norms() == update.norms()


def test_a_missing_or_cut_update_is_named(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.record(batch(1, 1), some_update())
    file = tmp_path / "updates" / "step-000001.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"step-000001\.safetensors is missing or damaged"):
        journal.update(1)
    file.unlink()
    with pytest.raises(RunError, match="cannot be rebuilt"):
        journal.update(1)


def test_a_disk_that_fills_in_the_middle_of_a_batch_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.record(batch(2), None)
    file = tmp_path / "journal.jsonl"
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.record(batch(4), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert journal.step == 2
    journal.record(batch(4), None)
    assert DiskJournal(tmp_path).step == 4


def test_a_failed_flush_takes_the_lines_back(tmp_path: Path, monkeypatch) -> None:
    journal = DiskJournal(tmp_path)
    journal.record(batch(2), None)
    before = (tmp_path / "journal.jsonl").read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.record(batch(4), None)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_every_line_is_one_json_object_with_the_subject_readable(tmp_path: Path) -> None:
    DiskJournal(tmp_path).record(batch(2), None)
    lines = (tmp_path / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["edit"] for line in lines] == [1, 2]
    assert "Inés 王" in lines[0]


def test_a_trajectory_that_cannot_be_rebuilt_takes_its_hooks_off_again() -> None:
    class Attached(Editor):
        name, paper, Settings, settings = "attached", "none", EditorSettings, EditorSettings()

        def __init__(self) -> None:
            self.on = False

        def propose(self, model, batch) -> Update:
            return Update({})

        def attach(self, model):
            self.on = True
            return lambda: setattr(self, "on", False)

    editor, journal = Attached(), Journal()
    journal.entries.append(Entry(1, 1, "a", "Ada", "applied"))  # its update is lost
    with pytest.raises(RunError, match="missing or damaged"):
        Trajectory(tiny_model("gpt2"), editor, journal=journal)
    assert not editor.on
    journal.entries.clear()
    Trajectory(tiny_model("gpt2"), editor, journal=journal)
    assert editor.on


def test_an_undo_that_cannot_be_rebuilt_leaves_journal_and_weights_as_they_were(tmp_path: Path) -> None:
    trajectory = Trajectory(tiny_model("gpt2"), Shove(ShoveSettings()), journal=DiskJournal(tmp_path))
    for fact in tiny_facts(3):
        trajectory.advance([fact])
    model, file = trajectory.model, tmp_path / "journal.jsonl"
    weight, lines = model.weight(model.mlp_out(LAYER)).clone(), file.read_bytes()
    (tmp_path / "updates" / "step-000001.safetensors").rename(tmp_path / "aside")
    with pytest.raises(RunError, match=r"step-000001\.safetensors is missing"):
        trajectory.undo(last=1)
    assert file.read_bytes() == lines
    assert trajectory.journal.active_steps() == [1, 2, 3]
    assert torch.equal(model.weight(model.mlp_out(LAYER)), weight)
    assert trajectory.undo(id="0") == ["0"]  # what is taken back need not be there
    assert trajectory.journal.active_steps() == [2, 3]
