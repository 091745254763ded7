"""errata lab info, train, export: the shipped model organisms."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Small models that know a synthetic world completely.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="lab-s, lab-s-llama or lab-m.")]


@app.command()
def info(
    name: Annotated[str | None, typer.Argument(help="One lab model; all when absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the card of a lab model: its size, its world, and what it was measured to know."""
    from errata.lab.models import LAB_MODELS, asset_path, spec_of

    cards = {}
    for one in [spec_of(name).name] if name else LAB_MODELS:
        file = asset_path(one) / "card.json"
        cards[one] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if as_json:
        typer.echo(json.dumps(cards, indent=1))
        return
    from errata.lab.page import page

    typer.echo("\n\n".join(page(card) for one, card in cards.items()))


@app.command()
def train(
    name: Name,
    out: Annotated[Path, typer.Option(help="Directory to write the model to.")],
    seed: Annotated[int | None, typer.Option(help="Seed of the training; the shipped one's by default.")] = None,
) -> None:
    """Train a lab model from nothing."""
    from errata.lab.models import spec_of
    from errata.lab.train import train as go

    def progress(step: int, total: int, figures: dict[str, float]) -> None:
        sys.stderr.write(f"{step}/{total}  {'  '.join(f'{k} {v:.4g}' for k, v in figures.items())}\n")

    spec = spec_of(name)
    go(spec, out, spec.seed if seed is None else seed, progress=progress)
    typer.echo(f"{name} is in {out}")


@app.command()
def export(name: Name, out: Annotated[Path, typer.Option(help="Directory to write to.")]) -> None:
    """Write a lab model as a plain Hugging Face directory, with `facts.jsonl` beside it."""
    from errata.lab.models import export as go

    go(name, out)
    typer.echo(f"{name} and its facts are in {out}")
