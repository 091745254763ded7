"""Read a curve that somebody else measured."""

from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.errors import AnalysisError
from errata.files import read_text

__all__ = ["read_curve"]

_DEAD = ("", "nan", "NaN", "NAN", "null", "None", "NA")


def read_curve(file: Path, x: str, y: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read two columns of a CSV or Parquet file; what is empty or says NaN or null in `y` is NaN.

    Args:
        file: the file.
        x: the column of steps.
        y: the column of figures.

    Raises:
        AnalysisError: when the file cannot be read, a column is missing, or a cell is no number; names it.
    """
    try:
        if file.suffix == ".parquet":
            frame = pl.read_parquet(file)
        else:
            frame = pl.read_csv(StringIO(read_text(file, AnalysisError)), infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as e:
        raise AnalysisError(f"{file} cannot be read ({e}); a CSV file with a header is needed.") from e
    for column in (x, y):
        if column not in frame.columns:
            raise AnalysisError(
                f"{file} has no column {column!r}; it has {', '.join(frame.columns)}. Name one with --x or --y."
            )
    if not len(frame):
        raise AnalysisError(f"{file} has a header and no rows; a curve needs at least one.")
    return _numbers(frame[x], file, dead=False), _numbers(frame[y], file, dead=True)


def _numbers(column: pl.Series, file: Path, *, dead: bool) -> NDArray[np.float64]:
    """Parse a column; `dead` says whether cells may be missing."""
    text = column.cast(pl.String).str.strip_chars()
    empty = text.is_null() | text.is_in(_DEAD)
    numbers = text.cast(pl.Float64, strict=False)
    bad = (numbers.is_null() | numbers.is_nan()) & ~(empty if dead else pl.Series([False] * len(text)))
    if bad.any():
        row = int(bad.arg_true()[0])
        raise AnalysisError(f"{file}, row {row + 2}: {column.name} is {text[row]!r}, but a number is needed.")
    return numbers.set(empty, float("nan")).to_numpy().astype(float)
