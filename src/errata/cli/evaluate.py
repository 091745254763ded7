"""errata evaluate."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata.cli.plain import echo_json
from errata.cli.sweep import Engines

if TYPE_CHECKING:
    from errata.studies.evaluate import Evaluation

__all__ = ["evaluate"]


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories; the runs may be going on.")],
    probe: Annotated[str, typer.Option(help="What is measured: a probe's name.")],
    override: Annotated[
        list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="A setting of the probe, such as every=10.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="S1,S2", help="After how many edits; by the probe's own schedule when absent.")
    ] = None,
    engine: Annotated[Engines, typer.Option(help="This process, or a Ray cluster.")] = Engines.local,
    processes: Annotated[
        int | None, typer.Option(min=1, help="With Ray: how many at a time; as many as find room when absent.")
    ] = None,
    gpus: Annotated[float, typer.Option("--gpus-per-run", min=0, help="With Ray: GPUs of each evaluation.")] = 0.0,
    cpus: Annotated[int, typer.Option("--cpus-per-run", min=1, help="With Ray: cores of each evaluation.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Measure past steps of runs from their updates, with the rows that the runs themselves would have written."""
    from errata.cli.terminal import TerminalProgress
    from errata.distributed.resident import Resident
    from errata.studies.evaluate import Evaluation, open_steps
    from errata.studies.recipe import ProbeSection, lay_override

    settings: dict[str, Any] = {}
    for text in override or []:
        lay_override(settings, text)
    section = ProbeSection.model_validate({"name": probe, **settings})
    wanted = None if steps is None else _numbers(steps)
    asked = [Evaluation(run, section, tuple(open_steps(run, section, wanted))) for run in runs]
    missing = [one for one in asked if one.steps]
    if engine is Engines.ray:
        from errata.distributed.ray_engine import Places, evaluate_on_ray

        reasons = evaluate_on_ray(missing, places=Places(processes, cpus, gpus))
    else:
        resident, progress = Resident(), TerminalProgress("evaluate")
        reasons = [resident.evaluate(one, progress) for one in missing]
        progress.end()
    _say(asked, {one.run: reason for one, reason in zip(missing, reasons, strict=True)}, as_json=as_json)


def _numbers(text: str) -> list[int]:
    from errata.errors import ConfigError

    try:
        return [int(word) for word in text.split(",")]
    except ValueError as e:
        raise ConfigError(f"--steps {text!r}: write numbers of edits, for instance 20,40.") from e


def _say(asked: "list[Evaluation]", reasons: dict[Path, str], *, as_json: bool) -> None:
    """Print what was measured; failures to standard error."""
    if as_json:
        found = [
            {
                "run": str(one.run),
                "probe": one.probe.name,
                "steps": list(one.steps),
                "message": reasons.get(one.run, ""),
            }
            for one in asked
        ]
        echo_json(found, indent=1)
    for one in asked:
        if reason := reasons.get(one.run):
            sys.stderr.write(f"error: {one.run}: {reason}\n")
        elif not as_json:
            steps = ", ".join(map(str, one.steps)) or "nothing: all steps asked for are there already"
            typer.echo(f"{one.run}: {one.probe.name} measured at {steps}")
    if any(reasons.values()):
        raise typer.Exit(1)
