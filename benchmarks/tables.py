"""Tables as Markdown, put into a page between markers."""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Table", "distance", "fill", "seconds", "spread", "times"]


@dataclass(frozen=True)
class Table:
    """One measured table.

    Args:
        name: of its markers in the page.
        columns: headings.
        rows: cells.
        measured: the figures behind them, as JSON values.
        note: a line below it: when and how it was measured.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    measured: Sequence[dict[str, Any]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        made = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{made}\n\n{self.note}" if self.note else made


def fill(page: Path, tables: Sequence[Table]) -> None:
    """Replace what stands between `<!-- table: NAME -->` and `<!-- end -->` by the tables of these names."""
    text = page.read_text(encoding="utf-8")
    for table in tables:
        pattern = re.compile(rf"(<!-- table: {table.name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{page} has no place for the table {table.name!r}: <!-- table: {table.name} -->")
        text = pattern.sub(lambda found, table=table: f"{found[1]}{table.markdown()}\n{found[2]}", text)
    page.write_text(text, encoding="utf-8")


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call takes, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def spread(values: Sequence[float]) -> str:
    """Return smallest / median / largest, in seconds, and how many they are of; the one value where there is one."""
    if len(values) == 1:
        return _short(values[0])
    ends = " / ".join(map(_short, (min(values), statistics.median(values), max(values))))
    return f"{ends} (of {len(values)})"


def times(plain: Sequence[float], ours: Sequence[float]) -> str:
    """Return how many times as long the plain one takes, by the medians."""
    return f"{statistics.median(plain) / statistics.median(ours):.1f} ×"


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return ‖a − b‖/‖b‖."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def _short(value: float) -> str:
    if value >= 1:
        return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms"
