"""Rows: the one form in which every probe reports, stored as Parquet."""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from errata.files import write_aside

__all__ = ["SCHEMA", "Row", "write_rows"]


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value.

    Args:
        step: how many edits had been made.
        metric: what and when: `efficacy.success@now`, `drift.relative`, ...
        value: the figure; NaN and infinity are results.
        edit_id: the fact it belongs to; empty when it belongs to none.
        prompt_id: which prompt, item or module.
        logp_new: mean log-probability per token of the new object, in nats; NaN where there is none.
        logp_true: the same of the true object.
        text: generated text, where there is any.
    """

    step: int
    metric: str
    value: float
    edit_id: str = ""
    prompt_id: str = ""
    logp_new: float = math.nan
    logp_true: float = math.nan
    text: str = ""


SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("edit_id", pa.string()),
        ("prompt_id", pa.string()),
        ("logp_new", pa.float64()),
        ("logp_true", pa.float64()),
        ("text", pa.string()),
    ]
)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to a Parquet file, whole or not at all; the same rows give the same bytes."""
    columns = list(zip(*map(astuple, rows), strict=True)) or [()] * len(SCHEMA)
    names = [f.name for f in fields(Row)]
    table = pa.table(dict(zip(names, map(list, columns), strict=True)), schema=SCHEMA)
    sink = BytesIO()
    pq.write_table(table, sink)
    write_aside(path, sink.getvalue())
