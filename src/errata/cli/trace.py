"""errata trace."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["trace"]

_LONG = 60  # seconds: what takes longer is told beforehand


def trace(
    model: Annotated[str, typer.Option(help="A lab model, a directory in Hugging Face layout, or a hub name.")],
    facts: Annotated[
        str | None, typer.Option(help="A file of facts, or a hub name; the lab model's own when absent.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="What the file holds (errata datasets): jsonl when absent.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many facts at most.")] = 50,
    everything: Annotated[
        bool, typer.Option("--all", help="Trace facts that the model does not know as well.")
    ] = False,
    noise: Annotated[float, typer.Option(min=0, help="Standard deviation of the noise, in those of embeddings.")] = 3.0,
    samples: Annotated[int, typer.Option(min=1, help="Draws of the noise for each fact.")] = 5,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="Layers restored together at mlp and attention; a fifth of all by default."),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Read every matrix in the model's precision: slower. In bfloat16 P is rounded by about 1 %.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    dtype: Annotated[str, typer.Option(help="Precision of the weights.")] = "float32",
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Write the heat map (.html, .svg) or all rows (.csv, .parquet).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find by causal tracing at which layers and positions a model holds its facts."""
    import torch

    from errata.cli.terminal import TerminalProgress
    from errata.edits.datasets import load_facts
    from errata.models import load
    from errata.studies.trace import SITES, estimate, known_facts
    from errata.studies.trace import trace as go
    from errata.studies.trace_chart import save, text_map

    progress = TerminalProgress("trace")
    progress.doing(f"loading {model}", 0, 1)
    loaded = load(model, dtype=dtype, device=device, tell=progress.tell)
    progress.doing(f"loading {model}", 1, 1)
    given = load_facts(dataset or ("jsonl" if facts else "lab"), facts, model=model, seed=seed)
    chosen = given[:n] if everything else known_facts(loaded, given, n)
    # ROME restores 10 of GPT2-XL's 48 layers together.
    wide = window or max(1, round(loaded.n_layers / 5))
    matrices: Literal["model", "bfloat16"] = "model" if exact else "bfloat16"
    if (seconds := estimate(loaded, chosen, samples=samples, window=wide, matrices=matrices)) > _LONG:
        progress.tell(
            f"tracing {len(chosen)} facts will take about {round(seconds / 60) or 1} min; fewer: -n, --samples"
        )
    found = go(
        loaded,
        chosen,
        torch.Generator().manual_seed(seed),
        noise=noise,
        samples=samples,
        window=wide,
        matrices=matrices,
        progress=partial(progress.doing, "tracing"),
    )
    progress.end()
    if out is not None:
        save(found, out)
    peaks = {site: found.peak(site) for site in SITES}
    if as_json:
        averages = found.averages().to_dicts()
        record = {"model": model, "facts": len(chosen), "window": wide, "noise": found.noise, "peaks": peaks}
        typer.echo(json.dumps({**record, "averages": averages}, indent=1))
        return
    means = found.rows.group_by("fact").first().select("clean", "corrupted").mean().row(0)
    typer.echo(f"{len(chosen)} facts, P(object) {means[0]:.3f} clean, {means[1]:.3f} with the subject corrupted\n")
    for site in SITES:
        typer.echo(text_map(found, site) + "\n")
    typer.echo(f"feed-forward peak at the subject's last token: layer {peaks['mlp']}")
    if out is not None:
        typer.echo(f"written: {out}")
