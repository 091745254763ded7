"""errata report, compare, frames."""

import sys
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata.cli.plain import echo_json

if TYPE_CHECKING:
    from errata.report.compare import Tables
    from errata.report.page import Judged
    from errata.report.table3 import Table3

__all__ = ["compare", "frames", "report"]

Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Export = Annotated[
    Path | None, typer.Option("--export", metavar="DIR", help="Write every chart as SVG, CSV and Parquet.")
]


class Form(StrEnum):
    """Formats of a frame."""

    csv = "csv"
    parquet = "parquet"
    json = "json"


class Written(StrEnum):
    """How a table is written."""

    markdown = "markdown"
    latex = "latex"


class Style(StrEnum):
    """Which table: Table 3 for reading, in Markdown, in LaTeX; or a row a run, means over runs that differ in seeds
    alone, differences between runs on the same edits, or how long their edits live."""

    text = "text"
    markdown = "markdown"
    latex = "latex"
    methods = "methods"
    runs = "runs"
    differences = "differences"
    survival = "survival"


def report(
    runs: Runs,
    out: Annotated[Path | None, typer.Option(help="The page, for a single run; RUN/report.html by default.")] = None,
    export: Export = None,
    as_json: Json = False,
) -> None:
    """Write a run's report, one self-contained page, and print its verdict."""
    from errata.analysis.room import taken_back
    from errata.errors import ConfigError
    from errata.report.page import report as write

    if out is not None and len(runs) > 1:
        raise ConfigError(
            f"--out names one page, but {len(runs)} runs were given. Leave it out: each run gets its own."
        )
    results = []
    for path in runs:
        page, judged = write(path, out)
        if export is not None:
            _export_run(judged, export if len(runs) == 1 else export / path.name)
        results.append({"run": str(path), "report": str(page), **_summary(judged)})
        if not as_json:
            for remark in taken_back(judged.run):
                typer.echo(f"{judged.run.name}: {remark}")
            typer.echo(f"{judged.run.name}: {judged.verdict}\n  {page}")
    if as_json:
        echo_json(results, indent=1)


def compare(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="The page; by default compare.html, in the current directory.")] = Path(
        "compare.html"
    ),
    table: Annotated[
        Style, typer.Option(help="Which table is printed: text, markdown and latex are Table 3.")
    ] = Style.text,
    written: Annotated[
        Written | None,
        typer.Option("--format", help="How it is written: Markdown, or LaTeX for booktabs."),
    ] = None,
    export: Export = None,
    as_json: Json = False,
) -> None:
    """Lay several runs over one another in a page, compare.html, and print what each of them costs."""
    from errata.analysis.room import taken_back
    from errata.report.compare import compare as write

    page, tables, judged = write(runs, out)
    made = tables.table3
    for one in judged:
        for remark in taken_back(one.run):
            sys.stderr.write(f"{one.run.name}: {remark}\n")
    if export is not None:
        _export_comparison(judged, tables, export)
    if as_json:
        verdicts = {name: _summary(j) for name, j in zip(made.runs, judged, strict=True)}
        content = {
            "report": str(page),
            "table": made.as_json(),
            "methods": tables.methods.as_json(),
            "over_runs": tables.runs.as_json(),
            "differences": tables.differences.as_json(),
            "survival": tables.survival.as_json(),
            "runs": verdicts,
        }
        echo_json(content, indent=1)
    elif table in (Style.methods, Style.runs, Style.differences, Style.survival):
        chosen: dict[Style, Any] = {
            Style.methods: tables.methods,
            Style.runs: tables.runs,
            Style.differences: tables.differences,
            Style.survival: tables.survival,
        }
        grid = chosen[table]
        typer.echo(grid.latex() if written is Written.latex else grid.markdown(), nl=False)
    elif table is Style.markdown or (table is Style.text and written is Written.markdown):
        typer.echo(made.markdown(), nl=False)
    elif table is Style.latex or written is Written.latex:
        typer.echo(made.latex(), nl=False)
    else:
        _print(made)
        typer.echo(str(page))


def frames(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    probe: Annotated[str, typer.Option(help="A probe's name, or summary: every curve with its interval.")] = "summary",
    form: Annotated[Form, typer.Option("--format", help="How the rows are written.")] = Form.csv,
    out: Annotated[Path | None, typer.Option(help="A file; standard output by default.")] = None,
) -> None:
    """Write a run's rows as a table."""
    import polars as pl

    from errata.analysis.frames import probe_frame
    from errata.errors import ConfigError

    frame = probe_frame(run, probe)
    if form is Form.parquet and out is None and sys.stdout.isatty():
        raise ConfigError("Parquet is not for reading on a terminal. Name a file with --out, or redirect the output.")
    if form is Form.json:
        finite = [pl.when(pl.col(c).is_finite()).then(pl.col(c)) for c, kind in frame.schema.items() if kind.is_float()]
        frame = frame.with_columns(finite)
    target = BytesIO()  # polars itself fails on a pipe that is closed early, as by `head`
    if form is Form.csv:
        frame.write_csv(target)
    elif form is Form.parquet:
        frame.write_parquet(target)
    else:
        frame.write_json(target)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(target.getvalue())  # nothing is put in place of a pipe or a link
        except OSError as e:
            raise ConfigError(f"{out} cannot be written ({e.strerror}). Name another place with --out.") from e
    else:
        sys.stdout.buffer.write(target.getvalue())
        sys.stdout.buffer.flush()


def _summary(judged: "Judged") -> dict[str, Any]:
    """Return a verdict as JSON holds it."""
    v = judged.verdict
    half = v.survival.half_life
    return {
        "name": judged.run.name,
        "method": judged.run.method,
        "verdict": str(v),
        "edits": v.edits,
        "undone": judged.run.journal["status"].to_list().count("undone"),
        "safe": v.safe,
        "gradual_start": v.gradual_start,
        "collapse_step": v.collapse.step if v.collapse else None,
        "interval": list(v.collapse.interval) if v.collapse else None,
        "agreeing": [e.key for e in v.collapse.agreeing] if v.collapse else [],
        "cause": v.collapse.cause.edit if v.collapse and v.collapse.cause else None,
        "disabling": [s.edit for s in v.disabling],
        "half_life": half if half == half else None,
    }


def _export_run(judged: "Judged", out: Path) -> None:
    from errata.report.charts import marks_of
    from errata.report.export import export
    from errata.report.figures import figures

    drawn = figures(judged.run, judged.curves, judged.verdict)
    export(drawn, [marks_of(judged.verdict)], judged.verdict.edits, out)


def _export_comparison(judged: "list[Judged]", tables: "Tables", out: Path) -> None:
    from errata.files import write_aside
    from errata.report.charts import marks_of
    from errata.report.compare import comparison
    from errata.report.export import export
    from errata.report.theme import SERIES

    marks = [marks_of(j.verdict, color, gradual=False) for j, color in zip(judged, SERIES, strict=False)]
    table = tables.table3
    export(comparison(judged, table.runs), marks, max(j.verdict.edits for j in judged), out)
    write_aside(out / "table3.md", table.markdown().encode())
    write_aside(out / "table3.tex", table.latex().encode())
    for name in ("methods", "runs", "differences", "survival"):
        write_aside(out / f"{name}.md", getattr(tables, name).markdown().encode())
        write_aside(out / f"{name}.tex", getattr(tables, name).latex().encode())


def _print(table: "Table3") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = "What each method costs: a word, then the figure until the collapse (Table 3 of arXiv 2401.07453)"
    grid = Table(title=title, title_justify="left", show_lines=True)
    for head in ("", *table.runs):
        grid.add_column(Text(head))
    for row, cells in table.rows.items():
        grid.add_row(Text(row), *(Text(f"{c.word}\n{c.text}") for c in cells))
    Console(soft_wrap=False).print(grid)
