"""Write every chart of a page as SVG and its data as CSV and Parquet, without a browser."""

import json
from collections.abc import Sequence
from pathlib import Path

from errata.files import write_aside
from errata.report.charts import Mark, chart
from errata.report.extras import vl_convert
from errata.report.figures import Figure
from errata.report.theme import resolve
from errata.report.words import safe_json

__all__ = ["export"]


def export(drawn: Sequence[Figure], marks: Sequence[Mark], edits: int, out: Path) -> list[Path]:
    """Write `<figure>.svg`, `.csv` and `.parquet` for every figure.

    Args:
        drawn: the figures.
        marks: what is marked on their step axis.
        edits: how far that axis goes.
        out: the directory; made when absent.

    Returns:
        The files, in their order.
    """
    written = []
    for figure in drawn:
        spec = json.loads(safe_json(resolve(chart(figure, marks, max(edits, 1), alone=True))))
        svg = vl_convert().vegalite_to_svg(spec)
        csv = figure.frame.write_csv()
        for suffix, content in ((".svg", svg), (".csv", csv)):
            write_aside(out / f"{figure.name}{suffix}", str(content).encode())
            written.append(out / f"{figure.name}{suffix}")
        figure.frame.write_parquet(out / f"{figure.name}.parquet")
        written.append(out / f"{figure.name}.parquet")
    return written
