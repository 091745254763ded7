"""Read a run directory into frames; nothing here needs a model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import polars as pl

from errata.errors import RunError, did_you_mean
from errata.order import misplaced

__all__ = ["ROW_COLUMNS", "RunFrames", "journal_entries", "load_run", "probe_frame", "read_lines"]

ROW_COLUMNS = pl.Schema(
    {
        "step": pl.Int32,
        "metric": pl.String,
        "value": pl.Float64,
        "edit_id": pl.String,
        "prompt_id": pl.String,
        "logp_new": pl.Float64,
        "logp_true": pl.Float64,
        "text": pl.String,
    }
)
_JOURNAL = {
    "edit": pl.Int64,
    "step": pl.Int64,
    "id": pl.String,
    "subject": pl.String,
    "status": pl.String,
    "relative": pl.Float64,
    "verdict": pl.String,
    "seconds": pl.Float64,
}
SUMMARY = "summary"
_BESIDE = "part-at-"


@dataclass(frozen=True)
class RunFrames:
    """A run, read.

    Args:
        path: its directory.
        info: what `run.json` holds.
        journal: one line an edit: edit, step, id, subject, status, relative, verdict, seconds.
        facts: the facts in the order of their edits.
        parts: the Parquet files of every probe, in the order of their steps.
    """

    path: Path
    info: Mapping[str, Any]
    journal: pl.DataFrame
    facts: tuple[Mapping[str, Any], ...]
    parts: Mapping[str, tuple[Path, ...]]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.info.get("name") or self.path.name)

    @property
    def method(self) -> str:
        """The editing method's name."""
        return str(self.info["config"]["method"]["name"])

    @property
    def peak_memory(self) -> float:
        """The most memory the run has held, in bytes; NaN where it was not recorded."""
        file = self.path / "usage.json"
        return float(_read_json(file, self.path, "peak_memory_bytes")["peak_memory_bytes"]) if file.exists() else nan

    @property
    def n_edits(self) -> int:
        """How many edits were made or refused."""
        return int(self.journal["step"].max() or 0) if len(self.journal) else 0  # type: ignore[arg-type]

    @property
    def own_metrics(self) -> dict[str, str]:
        """The metrics that probes of other packages measured, each with what it is: "share" or "number"."""
        found: dict[str, str] = {}
        for probe, kinds in (self.info.get("own_metrics") or {}).items():
            for metric in self.rows(probe).select(pl.col("metric").unique()).collect()["metric"].sort().to_list():
                found[metric] = kinds.get(metric.partition("@")[0], "number")
        return found

    def rows(self, probe: str | None = None) -> pl.LazyFrame:
        """Return the rows of one probe, or of all; read when collected."""
        files = [f for name, parts in self.parts.items() if probe in (None, name) for f in parts]
        return pl.scan_parquet(files) if files else pl.LazyFrame(schema=ROW_COLUMNS)

    def metric(self, name: str) -> pl.DataFrame:
        """Return all rows of a metric, by step."""
        return self.rows().filter(pl.col("metric") == name).collect().sort("step", maintain_order=True)

    def metrics(self) -> list[str]:
        """Return the names of all metrics that were measured."""
        return sorted(self.rows().select(pl.col("metric").unique()).collect()["metric"].to_list())


def load_run(path: str | Path) -> RunFrames:
    """Read a run directory; rows are only opened, and read when asked for.

    Args:
        path: the directory that holds `run.json`.

    Raises:
        RunError: when it is no run directory, or a file of it is missing or damaged; names the file.
    """
    path = Path(path)
    info = _read_json(path / "run.json", path)
    for section in ("method", "model"):
        if "name" not in (info["config"] or {}).get(section, {}):
            raise RunError(f"{path / 'run.json'} has no config.{section}.name; it was not written by `errata run`.")
    return RunFrames(path, info, _read_journal(path / "journal.jsonl"), _read_facts(path / "facts.jsonl"), _parts(path))


def probe_frame(path: str | Path, probe: str) -> pl.DataFrame:
    """Return all rows of a probe, or with "summary" the aggregated curves of a run.

    Args:
        path: the run directory.
        probe: a probe's name, or "summary".

    Raises:
        RunError: when the run has no such probe; names those it has.
    """
    run = load_run(path)
    if probe == SUMMARY:
        from errata.analysis.curves import summary

        return summary(run)
    if probe not in run.parts:
        known = [*run.parts, SUMMARY]
        raise RunError(
            f"{path} has no rows of a probe {probe!r}; it has {', '.join(known)}." + did_you_mean(probe, known)
        )
    return run.rows(probe).collect()


def _read_json(file: Path, run: Path, key: str = "config") -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise RunError(
            f"{run} is not a run directory: it has no {file.name}. Name a directory that `errata run` made."
        ) from e
    except (OSError, ValueError) as e:
        raise RunError(f"{file} is damaged ({e}). Restore it from a copy, or start a new run.") from e
    if not isinstance(content, dict) or key not in content:
        raise RunError(f"{file} holds no `{key}`; it was not written by `errata run`.")
    return content


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line without its newline is what a crash leaves, and does not count."""
    try:
        content = file.read_bytes()
    except FileNotFoundError as e:
        raise RunError(f"{file} is missing. Restore it from a copy, or `errata resume {file.parent}`.") from e
    records = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"{type(record).__name__} instead of an object")
        except ValueError as e:
            raise RunError(f"{file}, line {number} is damaged ({e}). Restore the file from a copy.") from e
        records.append(record)
    return records


def _read_journal(file: Path) -> pl.DataFrame:
    """Read the journal as a frame."""
    return pl.DataFrame([{k: e.get(k) for k in _JOURNAL} for e in journal_entries(file)], schema=_JOURNAL)


def journal_entries(file: Path) -> list[dict[str, Any]]:
    """Read the journal's entries whole; batches that were undone are marked so.

    Raises:
        RunError: when a line is damaged, or one was lost or doubled; names it.
    """
    entries: list[dict[str, Any]] = []
    for number, record in enumerate(read_lines(file), 1):
        needed = () if "undo" in record else ("edit", "step", "id", "subject", "status")
        missing = [k for k in needed if k not in record]
        why = f"it has no {', '.join(missing)}" if missing else ""
        if why := why or misplaced(record, len(entries), entries[-1]["step"] if entries else 0):
            raise RunError(f"{file}, line {number} is damaged: {why}. Restore the file from a copy.")
        if "undo" not in record:
            entries.append(record)
            continue
        for entry in entries:
            if entry["step"] in record["undo"] and entry["status"] in ("applied", "disabling", "nonfinite"):
                entry["status"] = "undone"
    return entries


def _read_facts(file: Path) -> tuple[Mapping[str, Any], ...]:
    return tuple(read_lines(file))


def _parts(path: Path) -> dict[str, tuple[Path, ...]]:
    """Find every probe's parts. All probes of a run write theirs at the same checkpoints: what one has, all must have.

    Parts named after a step were measured beside the run (`errata evaluate`), each by itself; where the run has come to
    measure the same step since, its own rows count.
    """
    found = {
        folder.name: {f.name: f for f in sorted(folder.glob("part-*.parquet"))}
        for folder in sorted((path / "probes").glob("*"))
        if folder.is_dir()
    }
    own = {probe: {name for name in files if not name.startswith(_BESIDE)} for probe, files in found.items()}
    expected = set().union(*own.values())
    for probe, files in found.items():
        only_beside = files and not own[probe]
        for absent in sorted(set() if only_beside else expected - own[probe]):
            raise RunError(
                f"{path / 'probes' / probe / absent} is missing, though other probes have theirs. Restore it, or "
                f"remove all parts and checkpoints after the step before and `errata resume {path}`."
            )
        for file in files.values():
            try:
                columns = pl.read_parquet_schema(file)
            except (OSError, pl.exceptions.PolarsError) as e:
                raise RunError(f"{file} is damaged ({e}). Restore it from a copy.") from e
            if set(columns) != set(ROW_COLUMNS):
                raise RunError(f"{file} has the columns {', '.join(columns)}, but rows have {', '.join(ROW_COLUMNS)}.")
    return {probe: tuple(_once(files)) for probe, files in found.items()}


def _once(files: Mapping[str, Path]) -> list[Path]:
    """Return a probe's parts without those from beside the run whose step the run's own parts hold."""
    beside = {name: int(Path(name).stem.removeprefix(_BESIDE)) for name in files if name.startswith(_BESIDE)}
    own = [file for name, file in files.items() if name not in beside]
    if not beside or not own:
        return [*files.values()]
    steps = set(pl.scan_parquet(own).select(pl.col("step").unique()).collect()["step"])
    return [file for name, file in files.items() if beside.get(name) not in steps]
