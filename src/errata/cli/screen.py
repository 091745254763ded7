"""errata screen."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from errata.report.screen import Screened

__all__ = ["screen"]

_SHOWN = 10


def screen(
    model: Annotated[str, typer.Option(help="A lab model, a directory in Hugging Face layout, or a hub name.")],
    method: Annotated[str, typer.Option(help="An editing method (errata methods).")] = "rome",
    facts: Annotated[
        str | None,
        typer.Option(help="A file of facts, a hub name, or a data set's name; the lab model's own when absent."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="What the file holds (errata datasets): jsonl when absent.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many facts; all when absent.")] = None,
    unrelated: Annotated[
        str | None, typer.Option(help="Facts that the model knows (.jsonl); a lab model's own when absent.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text for perplexity, a text a line; a lab model's own when absent.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what the method samples, and of folds and bootstraps.")] = 0,
    override: Annotated[
        list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="A setting, as in a recipe: method.layer=2.")
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="How many facts worst.jsonl holds at least.")] = 20,
    out: Annotated[Path | None, typer.Option(help="The directory; screens/<model>-<method> by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make each fact the first edit of the clean model: which ones disable it, and could one have told?"""
    from errata.analysis.screening import load_screening
    from errata.cli.terminal import TerminalProgress
    from errata.edits.datasets import DATASETS
    from errata.report.extras import altair
    from errata.report.screen import Screened, sentences, write_screening
    from errata.studies.recipe import load_recipe
    from errata.studies.screen import PROBES
    from errata.studies.screen import screen as go

    altair()  # asked for before any work is done
    named = facts is not None and dataset is None and facts in DATASETS and not Path(facts).exists()
    edits = {"dataset": facts if named else dataset or ("jsonl" if facts else "lab"), "n": n, "seed": seed}
    asked = {"unrelated": unrelated, "perplexity": text}
    sources = {probe: {"source": source} for probe, source in asked.items() if source}
    content: dict[str, Any] = {
        "model": {"name": model},
        "method": {"name": method},
        "edits": {**edits, "path": None if named else facts},
        "probes": [{**probe, **sources.get(probe["name"], {})} for probe in PROBES],
        "run": {"name": f"screen-{method}", "seed": seed},
    }
    target = out or Path("screens") / f"{Path(model).name}-{method}"
    progress = TerminalProgress(target.name)
    try:
        go(load_recipe(content, override or (), progress.tell), target, progress)
    finally:
        progress.end()
    screened = Screened.of(load_screening(target), seed)
    files = write_screening(screened, target, worst)
    if as_json:
        typer.echo(json.dumps({**screened.as_json(), "files": {k: str(v) for k, v in files.items()}}, indent=1))
        return
    _print(screened)
    for sentence in sentences(screened):
        typer.echo(sentence)
    if "disabling" in screened.refused:
        typer.echo(f"Told beforehand: {screened.refused['disabling']}")
    for verdict, p in screened.predictions.items():
        told = f"AUC {p.whole.auc:.2f} ({p.whole.low:.2f}–{p.whole.high:.2f})"
        typer.echo(f"Told beforehand, {verdict}: {told} on held-out subjects, {p.positives} of {p.facts} positive.")
    typer.echo(f"written: {files['screen.html']}, {files['ranked.csv']}, {files['worst.jsonl']}")


def _print(screened: "Screened") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from errata.report.words import number, share

    heads = ("rank", "subject", "verdict", "‖ΔW‖/‖W₀‖", "distance", "unrelated", "perplexity", "entropy")
    grid = Table(box=None, pad_edge=False)
    for head in heads:
        grid.add_column(head, justify="left" if head in ("subject", "verdict") else "right")
    for row in screened.screening.frame.head(_SHOWN).iter_rows(named=True):
        distance = "–" if row["distance"] is None else f"{row['distance']:.2e}"
        figures = (
            number(row["relative"]),
            distance,
            share(row["unrelated"]),
            *map(number, (row["perplexity"], row["entropy"])),
        )
        grid.add_row(str(row["rank"]), Text(row["subject"]), row["verdict"], *figures)
    Console().print(grid)
