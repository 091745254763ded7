"""What a run's directory notes beside its rows."""

import errno
import json
from pathlib import Path

import pytest
import torch

from errata.errors import RunError
from errata.studies.store import RunStore


def test_peak_memory_is_the_process_for_a_model_on_the_cpu_even_beside_a_gpu(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 7 if device else 0)
    store = RunStore(tmp_path)
    store.note_peak_memory(torch.device("cuda:1"))
    assert json.loads((tmp_path / "usage.json").read_text()) == {"peak_memory_bytes": 7}
    store.note_peak_memory(torch.device("cpu"))
    held = json.loads((tmp_path / "usage.json").read_text())["peak_memory_bytes"]
    assert held > 10_000_000
    # What an earlier process of the run has held is kept.
    store.note_peak_memory(torch.device("cuda:1"))
    assert json.loads((tmp_path / "usage.json").read_text())["peak_memory_bytes"] == held


@pytest.mark.parametrize("damaged", [b"", b'{"peak_mem', b"\xff\x00", b"[]", b'{"peak_memory_bytes": null}'])
def test_a_damaged_note_of_memory_stops_no_run(damaged: bytes, tmp_path) -> None:
    (tmp_path / "usage.json").write_bytes(damaged)
    RunStore(tmp_path).note_peak_memory(torch.device("cpu"))
    assert json.loads((tmp_path / "usage.json").read_text())["peak_memory_bytes"] > 0


def test_taking_the_lock_removes_half_written_files_of_a_run_and_nobody_elses(tmp_path) -> None:
    ours = [
        ".run.json.12.part",
        "updates/.step-000001.safetensors.12.part",
        "probes/drift/.part-000001.parquet.12.part",
        "checkpoints/.step-000001.part/.state.json.12.part",
    ]
    theirs = [".film.part", "films/.film.mkv.7.part", "updates/old/.film.part/reel", "checkpoints/step-000001/.x.part"]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with RunStore(tmp_path).lock():
        pass
    assert [name for name in ours if (tmp_path / name).exists()] == []
    assert [name for name in theirs if not (tmp_path / name).exists()] == []
    assert not (tmp_path / "checkpoints" / ".step-000001.part").exists()


def test_a_run_begins_where_nothing_is_but_what_a_killed_beginning_left(tmp_path) -> None:
    store = RunStore(tmp_path / "run")
    store.check_free()
    with store.lock():
        store.check_free()
    for name in ("facts.jsonl", ".run.json.12.part"):
        (store.path / name).write_text("{")
    store.check_free()
    (store.path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"not empty: it holds thesis\.tex"):
        store.check_free()
    with pytest.raises(RunError, match=r"thesis\.tex is a file"):
        RunStore(store.path / "thesis.tex").check_free()


@pytest.mark.parametrize("begun", [False, True])
def test_a_disk_that_refuses_is_put_in_words_and_resuming_is_advised_where_a_run_has_begun(begun, tmp_path) -> None:
    store = RunStore(tmp_path / "run")
    if begun:
        store.path.mkdir()
        (store.path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="No space left") as refused, store.lock():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert ("errata resume" in str(refused.value)) is begun
    assert ("Nothing was recorded" in str(refused.value)) is not begun


def test_a_place_where_no_directory_can_be_made_is_put_in_words(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    # What /proc says to a new directory is that there is no such file.
    for place in (tmp_path / "file" / "run", Path("/proc/errata/run")):
        with pytest.raises(RunError, match=r"could not be written: .*Nothing was recorded"), RunStore(place).lock():
            pass
