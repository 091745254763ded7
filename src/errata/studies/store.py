"""The run directory: its description, its rows, its checkpoints, and the lock that keeps two processes apart."""

import fcntl
import json
import re
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from errata.edits import EditStream, Fact
from errata.edits.jsonl import read_jsonl
from errata.errors import ErrataError, ResumeError, RunError
from errata.files import REFUSALS, sync_folder, write_aside
from errata.models import EditableModel, deviation
from errata.probes.rows import Row, write_rows
from errata.trajectory.journal import Entry

__all__ = ["Checkpoint", "RunStore"]

_ASIDE = re.compile(r"\..+\.\d+\.part")  # what `write_aside` calls a file until it is whole
_KEPT = 2  # checkpoints; an older step is rebuilt from the updates


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on from a step: masters, the editor's state, and whether the run was over."""

    step: int
    weights: Mapping[str, Tensor]
    editor: Mapping[str, Any]
    finished: bool = False
    undone: int = 0


class RunStore:
    """Read and write one run directory.

    Args:
        path: the directory.
    """

    description_file: ClassVar[str] = "run.json"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of the run while the block lasts; a disk that refuses a write is put in words."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as e:
            raise self._refused(e) from e
        with self._refusals_explained(), lock:
            self._claim(lock.fileno())
            yield

    def _claim(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise RunError(f"{self.path} is being run by another process. Wait for it, or stop it first.") from e
        # Nobody else writes here now: whatever is half-written was left by a process that was killed.
        for folder in (self.path, self.path / "updates", *self.path.glob("probes/*")):
            for leftover in folder.glob(".*.part"):
                if _ASIDE.fullmatch(leftover.name) and leftover.is_file():
                    leftover.unlink(missing_ok=True)
        for leftover in self.path.glob("checkpoints/.step-*.part"):
            shutil.rmtree(leftover)

    def check_free(self) -> None:
        """Refuse a place that holds a run, or files of somebody else's, as one where a run may begin.

        Raises:
            RunError: says which.
        """
        if (self.path / self.description_file).exists():
            raise RunError(
                f"{self.path} holds a run already. Continue it: errata resume {self.path}. Or name another --out."
            )
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file. Name another --out: a run begins in a directory of its own.")
        # A process killed before the description was written has left no more than this.
        own = (".lock", "facts.jsonl")
        foreign = [
            file.name
            for file in sorted(self.path.glob("*"))
            if file.name not in own and not _ASIDE.fullmatch(file.name)
        ]
        if foreign:
            raise RunError(
                f"{self.path} is no run directory and not empty: it holds {', '.join(foreign[:3])}"
                f"{' and more' if len(foreign) > 3 else ''}. Name another --out: a run begins in a new place."
            )

    @contextmanager
    def _refusals_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if e.errno not in REFUSALS:
                raise
            raise self._refused(e) from e

    def _refused(self, error: OSError) -> RunError:
        """Put a refusal in words: what a run has recorded stays, and before it has begun there is nothing to resume."""
        try:
            begun = (self.path / self.description_file).exists()
        except OSError:
            begun = False
        after = (
            f"Everything recorded so far is whole; make room or mend the disk, then: errata resume {self.path}"
            if begun
            else "Nothing was recorded; make room or mend the disk, or name another --out."
        )
        return RunError(f"{error.filename or self.path} could not be written: {error.strerror}. {after}")

    def begin(self, description: Mapping[str, Any], stream: EditStream) -> None:
        """Write `facts.jsonl` and the description."""
        lines = [json.dumps(fact.to_mapping(), ensure_ascii=False) + "\n" for fact in stream.facts]
        write_aside(self.path / "facts.jsonl", "".join(lines).encode())
        content = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
        write_aside(self.path / self.description_file, content.encode())

    def abandon(self) -> None:
        """Take back `begin` where nothing has been recorded since, so that a corrected recipe finds the place free."""
        if not self._checkpoints() and not (self.path / "journal.jsonl").exists():
            for name in (self.description_file, "facts.jsonl"):
                (self.path / name).unlink(missing_ok=True)

    def description(self) -> dict[str, Any]:
        """Read the description."""
        file = self.path / self.description_file
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise RunError(f"{self.path} is not a run directory: it has no {file.name}.") from e
        except ValueError as e:
            raise RunError(f"{file} is damaged: {e}") from e
        wanted = {"config": dict, "model_fingerprint": str, "sources": dict, "stream": dict}
        for key, kind in wanted.items():
            if not isinstance(content, dict) or not isinstance(content.get(key), kind):
                raise RunError(f"{file} holds no `{key}`: it is damaged, or not Errata's. Restore it from a copy.")
        return content

    def stream(self) -> EditStream:
        """Read the facts of the run from its own `facts.jsonl`.

        Raises:
            RunError: when the file is missing or damaged, or holds other facts than the run was begun with.
        """
        file, begun = self.path / "facts.jsonl", self.description()["stream"]
        try:
            stream = EditStream(tuple(read_jsonl(str(file))), begun["batch_size"])
        except ErrataError as e:
            raise RunError(f"the facts of {self.path} cannot be read: {e} Restore the file from a copy.") from e
        if stream.fingerprint() != begun["fingerprint"]:
            raise RunError(f"{file} does not hold the facts that the run was begun with. Restore it from a copy.")
        return stream

    def check(self, model: EditableModel, stream: EditStream, sources: Mapping[str, str]) -> None:
        """Compare model, facts and texts with those the run was begun with.

        Raises:
            ResumeError: names the first edit that differs.
        """
        begun = self.description()
        self.check_model(model)
        for what, fingerprint in sources.items():
            if begun["sources"].get(what) != fingerprint:
                raise ResumeError(
                    f"{what} is not what {self.path} was begun with: its content differs. Restore it, "
                    f"or start a new run."
                )
        old, new = begun["stream"]["hashes"], stream.hashes()
        for i, fact in enumerate(stream.facts):
            if i >= len(old) or old[i] != new[i]:
                was = self._subject(i)
                raise ResumeError(
                    f"edit {i + 1} in {self.path} differs: its subject was {was!r}, the data now gives "
                    f"{fact.subject!r} (id {fact.id}). Restore the data, or start a new run."
                )
        if len(new) < len(old):
            raise ResumeError(
                f"{self.path} was begun with {len(old)} edits, the data now gives {len(new)}. Restore the data."
            )

    def check_model(self, model: EditableModel) -> None:
        """Compare a model with the one that the run was begun with.

        Raises:
            ResumeError: names the file in which they differ.
        """
        if what := deviation(model, self.description()["model_fingerprint"]):
            raise ResumeError(
                f"the model {model.name!r} is not the one that {self.path} was begun with: {what}. Give back the "
                f"original, unedited files, or start a new run."
            )

    def _subject(self, index: int) -> str:
        lines = (self.path / "facts.jsonl").read_text(encoding="utf-8").splitlines()
        return str(json.loads(lines[index])["subject"]) if index < len(lines) else "(none)"

    def note_peak_memory(self, device: torch.device) -> None:
        """Write the most memory a process of the run has held to `usage.json`: of the GPU where the model is on one."""
        here = (
            torch.cuda.max_memory_allocated(device)
            if device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        )
        file = self.path / "usage.json"
        try:
            before = int(json.loads(file.read_text())["peak_memory_bytes"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # a figure for reading; no run stands still for it
            before = 0
        write_aside(file, json.dumps({"peak_memory_bytes": max(before, here)}).encode())

    def write_rows(self, probe: str, step: int, rows: Sequence[Row]) -> None:
        """Write one probe's rows up to `step` as one Parquet part."""
        write_rows(self.path / "probes" / probe / f"part-{step:06d}.parquet", rows)

    def write_quarantine(self, entries: Sequence[Entry], facts: Mapping[str, Fact]) -> None:
        """Write the facts that were refused or failed, each with the reason; no file where there are none."""
        lines = [
            {"edit": e.edit, "reason": e.verdict, "fact": facts[e.id].to_mapping()}
            for e in entries
            if e.status in ("rolled-back", "failed")
        ]
        if lines:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_aside(self.path / "quarantine.jsonl", text.encode())

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint aside, rename it into place, then drop the oldest."""
        folder = self.path / "checkpoints" / f"step-{checkpoint.step:06d}"
        aside = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        tensors = {k: v for k, v in checkpoint.editor.items() if isinstance(v, Tensor)}
        plain = {k: v for k, v in checkpoint.editor.items() if not isinstance(v, Tensor)}
        write_aside(aside / "weights.safetensors", save({k: v.contiguous() for k, v in checkpoint.weights.items()}))
        write_aside(aside / "editor.safetensors", save({k: v.contiguous() for k, v in tensors.items()}))
        state = {"step": checkpoint.step, "finished": checkpoint.finished, "undone": checkpoint.undone, "editor": plain}
        write_aside(aside / "state.json", json.dumps(state, ensure_ascii=False).encode())
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
        sync_folder(folder.parent)
        for old in self._checkpoints()[:-_KEPT]:
            shutil.rmtree(old)

    def last_checkpoint(self, recorded: int) -> Checkpoint | None:
        """Read the newest checkpoint; None when there is none.

        Args:
            recorded: the step at which the journal ends.

        Raises:
            RunError: when it is damaged, or the journal ends before it.
        """
        folders = self._checkpoints()
        if not folders:
            return None
        folder = folders[-1]
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if state["step"] > recorded:
                # Lines are flushed before the checkpoint that relies on them: some were there and are gone.
                raise RunError(
                    f"{self.path / 'journal.jsonl'} is damaged: it ends at edit {recorded}, but there is a checkpoint "
                    f"after edit {state['step']}. Restore it from a copy, or start a new run."
                )
            return Checkpoint(
                step=state["step"],
                weights=load_file(folder / "weights.safetensors"),
                editor={**state["editor"], **load_file(folder / "editor.safetensors")},
                finished=state["finished"],
                undone=state["undone"],
            )
        except (OSError, ValueError, KeyError, SafetensorError) as e:
            raise RunError(
                f"the checkpoint {folder} is damaged ({e}). Remove that folder; an earlier one, or the journal, will "
                f"serve."
            ) from e

    def finished(self) -> bool:
        """Say whether the run has come to its end; reads one small file, while another process may be writing."""
        try:
            state = json.loads((self._checkpoints()[-1] / "state.json").read_text(encoding="utf-8"))
        except (IndexError, FileNotFoundError):  # none yet, or the oldest of several just dropped
            return False
        except ValueError as e:
            raise RunError(f"a checkpoint of {self.path} is damaged ({e}). Remove its newest folder.") from e
        return bool(state["finished"])

    def reached(self) -> int:
        """Return how many edits the newest checkpoint holds; 0 without one."""
        folders = self._checkpoints()
        return int(folders[-1].name.removeprefix("step-")) if folders else 0

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("step-*"))
