"""errata sweep."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata.cli.plain import echo_json, remark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from errata.studies.grid import Cell
    from errata.studies.sweep import Engine

__all__ = ["sweep"]


class Engines(StrEnum):
    """What makes the runs."""

    local = "local"
    ray = "ray"


def sweep(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    grid: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=V1,V2",
            help="A recipe's key and its values, as a YAML list holds them: method.name=rome,memit; "
            "method.layers=[3,4],[4]; probes.forgetting.every=5,20. Several make every combination.",
        ),
    ],
    override: Annotated[
        list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="The same for all runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's directory; runs/<run.name> by default.")] = None,
    engine: Annotated[Engines, typer.Option(help="Processes of this machine, or a Ray cluster.")] = Engines.local,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Make every N-th run only, from the I-th on.")] = "1/1",
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many runs at a time: 1, or with Ray as many as find room.")
    ] = None,
    gpus: Annotated[
        float, typer.Option("--gpus-per-run", min=0, help="With Ray: 0.25 puts four runs on one GPU.")
    ] = 0.0,
    cpus: Annotated[int, typer.Option("--cpus-per-run", min=1, help="With Ray: cores, and threads, of each run.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and their cost, run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Run a recipe over a grid of settings; called again, it goes on where it was, and tries again what failed."""
    from errata.studies.grid import cells, read_grid, shard_of
    from errata.studies.recipe import load_recipe

    whole = cells(recipe, override or [], read_grid(grid))
    mine = shard_of(whole, shard)
    target = out or Path("runs") / load_recipe(recipe, override or [], remark).run.name
    if dry_run:
        _say_plan(mine, target, as_json=as_json)
        return
    from errata.studies.sweep import sweep as go

    found = go(whole, mine, target, _engine(engine, processes, gpus, cpus))
    if as_json:
        echo_json(found.as_json(), indent=1)
    else:
        typer.echo(found.markdown(), nl=False)
        typer.echo(f"next: errata compare {target}/*/; the table as numbers: {target / 'summary.csv'}")
    failed = [(run, message) for run, message in zip(found.directories, found.messages, strict=True) if message]
    for run, message in failed:
        sys.stderr.write(f"error: {target / run}: {message}\n")
    if failed:
        raise typer.Exit(1)


def _engine(engine: Engines, processes: int | None, gpus: float, cpus: int) -> "Engine":
    from functools import partial

    if engine is Engines.ray:
        from errata.distributed.ray_engine import Places, run_all_on_ray

        return partial(run_all_on_ray, places=Places(processes, cpus, gpus), tell=_tell)
    from errata.studies.engine import run_all

    return partial(run_all, processes=processes or 1, tell=_tell)


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _say_plan(cells: "Sequence[Cell]", target: Path, *, as_json: bool) -> None:
    """Print each run with what it would cost; what cannot be run says why."""
    from errata.errors import ErrataError
    from errata.studies.engine import begun
    from errata.studies.plan import plan
    from errata.studies.store import RunStore

    lines: list[dict[str, Any]] = []
    for cell in cells:
        path = target / cell.directory
        line: dict[str, Any] = {"run": cell.directory, "axes": dict(cell.axes), "message": ""}
        line["status"] = "not begun" if not begun(path) else "finished" if RunStore(path).finished() else "begun"
        try:
            costs = plan(cell.recipe, path)
            line |= {"seconds": costs.edits * costs.seconds_per_edit, "memory_gb": costs.memory_gb}
        except ErrataError as e:
            line |= {"seconds": None, "memory_gb": None, "message": str(e)}
        lines.append(line)
    if as_json:
        echo_json(lines, indent=1)
    else:
        for line in lines:
            cost = line["message"] or f"about {line['seconds'] / 60:.1f} min of editing, {line['memory_gb']:.1f} GB"
            typer.echo(f"{line['status']:>9}  {line['run']}  {cost}")
        total = sum(line["seconds"] or 0 for line in lines if line["status"] != "finished")
        typer.echo(f"{len(lines)} runs in {target}; {total / 3600:.1f} h of editing left, probes not counted")
    if any(line["message"] for line in lines):
        raise typer.Exit(1)
