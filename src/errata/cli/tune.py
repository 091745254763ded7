"""errata tune."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["tune"]


def tune(
    model: Annotated[
        str, typer.Option(help="A known model, a directory in Hugging Face layout, a GGUF file, or a hub name.")
    ],
    method: Annotated[str, typer.Option("--method", "-m", help="The editing method; see `errata methods`.")] = "memit",
    minutes: Annotated[float, typer.Option(min=0, help="No further trial is begun after this time.")] = 20.0,
    facts: Annotated[
        str | None,
        typer.Option(help="Facts with target_true, paraphrases and neighbors; well-known ones by default."),
    ] = None,
    dataset: Annotated[str, typer.Option(help="What the file holds (errata datasets).")] = "jsonl",
    dtype: Annotated[str, typer.Option(help="Precision of the weights.")] = "float32",
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Write the settings to this file, not to where `errata edit` finds them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find settings of a method for a model, by single edits of facts that the model knows.

    Interrupted and called again it goes on; every trial stands in a table beside the settings.
    """
    from errata.cli.plain import echo_json
    from errata.cli.terminal import TerminalProgress
    from errata.editors.strength import calibration_facts
    from errata.editors.tuned import read_tuned, settings_file, write_tuned
    from errata.edits.datasets import load_facts
    from errata.models import load
    from errata.studies.tune import described, known, occasion, short
    from errata.studies.tune import tune as go

    progress = TerminalProgress("tune")
    progress.doing(f"loading {model}", 0, 1)
    loaded = load(model, dtype=dtype, device=device, tell=progress.tell)
    progress.doing(f"loading {model}", 1, 1)
    given = calibration_facts() if facts is None else load_facts(dataset, facts, model=model, seed=0)
    chosen = known(loaded, given)
    progress.tell(f"{len(chosen)} of {len(given)} facts are known to {model} and are edited")
    file = out or settings_file(loaded)
    read_tuned(file)  # what cannot be added to is said before anything is tried
    trials = file.with_name(f"{file.stem}-{method}-{occasion(loaded, method, chosen)}-trials.jsonl")
    found = go(loaded, method, chosen, trials, seconds=60 * minutes, tell=progress.tell, doing=progress.doing)
    progress.end()
    best = found[-1]
    if len(found) > 1:
        write_tuned(file, method, best.settings, described(best))
    if as_json:
        echo_json(
            {
                "model": model,
                "method": method,
                "settings": best.settings,
                "default": found[0].objective,
                "best": best.objective,
                "file": str(file) if len(found) > 1 else None,
                "trials": str(trials),
            }
        )
        return
    typer.echo(f"defaults  {described(found[0])}")
    if len(found) > 1:
        typer.echo(f"best      {described(best)}\n          {short(best.settings)}")
        typer.echo(f"written to {file}; errata edit uses these settings for this model from now on.")
    else:
        typer.echo("Nothing that was tried is better than the defaults; nothing was written.")
    typer.echo(f"every trial: {trials}")
