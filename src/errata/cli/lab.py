"""errata lab info, train, export: the shipped model organisms."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Small models that know a synthetic world completely.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A lab model: lab-s, lab-m, ... (errata lab info).")]


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
    facts: Annotated[
        Path | None, typer.Option(help="Facts of your own (.jsonl) that a model of NAME's size shall know instead.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of training; the shipped model's by default.")] = None,
) -> None:
    """Train a lab model as it was trained, on its own world or on facts of yours."""
    from dataclasses import replace

    from errata.errors import ConfigError
    from errata.lab.models import spec_of
    from errata.lab.own_facts import facts_recall, read_facts, world_of
    from errata.lab.train import train as go

    def progress(step: int, total: int, figures: dict[str, float]) -> None:
        sys.stderr.write(f"{step}/{total}  {'  '.join(f'{k} {v:.4g}' for k, v in figures.items())}\n")

    spec = spec_of(name)
    if facts is not None and spec.start:
        raise ConfigError(
            f"{name} is {spec.start} trained on, and knows the words of its world alone. For facts of yours name "
            f"{spec.start}."
        )
    _made(out)  # whoever cannot write there hears of it before the training
    spec = replace(spec, steps=steps or spec.steps, seed=spec.seed if seed is None else seed)
    if facts is None:
        go(spec, out, progress=progress)
        typer.echo(f"{name} is in {out}")
        return
    world = world_of(read_facts(facts))
    # A mention of a lab world's person teaches eight facts at once, here mostly one: more text, and more of it facts.
    go(replace(spec, people=len(world.people), rows=8, tasks=0.2), out, progress=progress, world=world)
    from errata.lab.recommended import write_recommended
    from errata.models import load

    write_recommended(name, out)
    recall = facts_recall(load(str(out)), world.facts())
    (out / "recall.json").write_text(json.dumps(recall, indent=1) + "\n", encoding="utf-8")
    typer.echo(
        f"{out} recalls {recall['two_phrasings']:.1%} of {len(world.facts())} facts in two phrasings or more, "
        f"{recall['all_phrasings']:.1%} in every one."
    )


@app.command()
def facts(
    dataset: Annotated[str, typer.Argument(help="A data set with true objects and relations: counterfact.")],
    out: Annotated[Path, typer.Option(help="Directory for facts.jsonl and requests.json.")],
    path: Annotated[str | None, typer.Option(help="The data set's file or hub name.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Edit requests of each relation.")] = 90,
    relation: Annotated[list[str] | None, typer.Option(help="A relation's id; several times for several.")] = None,
    patterns: Annotated[Path | None, typer.Option(help="Directory of ParaRel patterns: more phrasings.")] = None,
) -> None:
    """Gather the true facts behind a data set's edit requests and neighborhoods, for `errata lab train --facts`."""
    from errata.edits.datasets import load_facts
    from errata.lab.gather import gather
    from errata.lab.own_facts import world_of, write_facts

    requests, known = gather(load_facts(dataset, path), each, relation or (), patterns)
    world_of(known)
    _made(out)
    write_facts(out / "facts.jsonl", known)
    (out / "requests.json").write_text(json.dumps([fact.id for fact in requests]) + "\n", encoding="utf-8")
    typer.echo(
        f"{len(known)} facts behind {len(requests)} requests are in {out / 'facts.jsonl'}.\n"
        f"Train:  errata lab train lab-m --facts {out / 'facts.jsonl'} --out {out / 'model'}\n"
        f"Edit:   errata run RECIPE -o model.name={out / 'model'} -o edits.dataset={dataset} "
        f"-o edits.order_file={out / 'requests.json'}" + (f" -o edits.path={path}" if path else "")
    )


@app.command()
def export(name: Name, out: Annotated[Path, typer.Option(help="Directory to write to.")]) -> None:
    """Write a lab model as a plain Hugging Face directory, with `facts.jsonl` beside it."""
    from errata.lab.models import export as go

    go(name, out)
    typer.echo(f"{name} and its facts are in {out}")


def _made(out: Path) -> None:
    """Make the directory that is to be written to."""
    from errata.errors import ConfigError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"--out {out} cannot be made a directory ({e.strerror}). Name another.") from e
