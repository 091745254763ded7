"""errata export."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


class Form(StrEnum):
    """What edits are exported as."""

    full = "full"
    lora = "lora"
    editor = "editor"


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of `errata edit` or `errata run`.")],
    form: Annotated[
        Form,
        typer.Option(
            "--as", help="full: the edited weights. lora: an adapter for peft and vLLM. editor: for errata.attach."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR2", help="The new directory.")],
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Of an adapter: keep so many directions of each matrix; what is lost is measured."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Write corrected weights, a LoRA adapter or an editor, with a model card that names every edit and its cost."""
    from errata.export import export as go
    from errata.report.words import safe_json

    made = go(directory, out, form.value, rank=rank)
    if as_json:
        typer.echo(safe_json(made.as_json()))
        return
    typer.echo(f"{made.applied} of {made.edits} edits as {form.value} in {out}; the model states {made.stated} of them")
    if made.fidelity and made.ranks and made.errors:
        ranks, most = made.ranks.values(), max(made.errors.values())
        typer.echo(
            f"ranks {min(ranks)} to {max(ranks)}, each change within a relative error of {most:.2g}; "
            f"logits within {made.fidelity.logits:.2g} of the edited model's, {len(made.fidelity.lost)} edits lost"
        )
        served = made.max_lora_rank
        typer.echo(f"vLLM: --max-lora-rank {served}" if served else "vLLM serves no adapter of so high a rank")
    typer.echo(f"what it is and what it cost: {out / 'README.md'}")
