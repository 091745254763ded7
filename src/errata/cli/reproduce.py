"""errata reproduce."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from errata.studies.reproduce.claims import Claim
    from errata.studies.reproduce.page import Page
    from errata.studies.reproduce.work import Reproduction, Size, Work

__all__ = ["reproduce"]


def reproduce(
    paper: Annotated[str, typer.Argument(help="gupta2024 (2401.07453) or lin2024 (2402.11122).")],
    model: Annotated[str | None, typer.Option(help="A lab model; the reproduction's own when absent.")] = None,
    out: Annotated[Path | None, typer.Option(help="Its directory; runs/PAPER-MODEL when absent.")] = None,
    claim: Annotated[
        list[str] | None, typer.Option("--claim", metavar="ID", help="Make this row alone, and only what it needs.")
    ] = None,
    edits: Annotated[int | None, typer.Option(min=1, help="Edits of each run.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="How often each run is made, in another order; as in the paper when absent."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
    page: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Write the Markdown page here too.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Reproduce a paper's claims: make the runs that test them, and say of each whether it holds."""
    from errata.studies.reproduce.papers import reproduction
    from errata.studies.reproduce.work import Size

    wanted = reproduction(paper)
    size = Size(model or wanted.model, edits, samples or wanted.samples)
    named = [paper, size.model, *([str(edits)] if edits else [])]
    named += [f"x{size.samples}"] if size.samples != wanted.samples else []
    target = out or Path("runs") / "-".join(named)
    claims = wanted.chosen(claim or [])
    work = wanted.work(size, target)
    if dry_run:
        _say_plan(wanted, work, claims, target, processes, as_json)
        return
    from errata.studies.reproduce.make import make
    from errata.studies.reproduce.page import Page

    results = make(work.needed(claims), target, processes=processes, tell=_tell)
    found = Page.of(wanted, size, claims, results, _command(wanted, size, out))
    if claim is None:
        found.write(target, results)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(found.markdown(), encoding="utf-8")
    if as_json:
        typer.echo(found.as_json())
        return
    _print(found)
    if claim is None:
        typer.echo(f"{target / 'claims.html'}")
    else:
        typer.echo(f"runs: {target}. A page of these rows: --page FILE.md; as JSON: --json.")


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def _command(wanted: "Reproduction", size: "Size", out: Path | None) -> str:
    """Return the command that makes everything of this size."""
    words = ["errata", "reproduce", wanted.name]
    words += ["--model", size.model] if size.model != wanted.model else []
    words += ["--edits", str(size.edits)] if size.edits else []
    words += ["--samples", str(size.samples)] if size.samples != wanted.samples else []
    words += ["--out", str(out)] if out else []
    return shlex.join(words)


def _say_plan(
    wanted: "Reproduction", work: "Work", claims: "tuple[Claim, ...]", out: Path, processes: int, as_json: bool
) -> None:
    """Say what is there, what would be made, and how long the editing takes at least."""
    from errata.studies.plan import plan
    from errata.studies.reproduce.make import finished, screened

    needed = work.needed(claims)
    runs, screens = needed.runs, needed.screens
    names = {name: out / "runs" / name for name in runs} | {name: out / "screens" / name for name in screens}
    missing = [name for name in runs if not finished(names[name])]
    missing += [name for name, recipe in screens.items() if not screened(names[name], recipe)]
    each: dict[str, float] = {}
    seconds = 0.0
    for name in missing:
        recipe = {**runs, **screens}[name]
        kind = f"{recipe.model.name} {recipe.method.model_dump_json()}"
        if kind not in each:
            # What an edit costs depends on no order; the file that holds it may not be there yet.
            anyhow = recipe.edits.model_copy(update={"order_file": None, "sample": ""})
            each[kind] = plan(recipe.model_copy(update={"edits": anyhow}), names[name]).seconds_per_edit
        seconds += each[kind] * (recipe.edits.n or 0)
    if as_json:
        content = {
            "paper": wanted.name,
            "out": str(out),
            "claims": [c.id for c in claims],
            "runs": list(names),
            "missing": missing,
            "trainings": list(work.trainings),
            "editing_seconds": seconds / processes,
        }
        typer.echo(json.dumps(content, indent=1))
        return
    for name, place in names.items():
        typer.echo(f"{'to make' if name in missing else 'there  '}  {place}")
    for name in work.trainings:
        typer.echo(f"training  {out / 'trained' / name}, where a run needs it")
    minutes = f"at least {seconds / processes / 60:.0f} minutes of editing, probes not counted"
    typer.echo(f"{len(missing)} of {len(names)} runs and screens for {len(claims)} claims: {minutes}")


def _print(page: "Page") -> None:
    """Print the table of claims."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"holds": "green", "does not hold": "red"}
    for section, rows in page.sections.items():
        grid = Table(title=section, title_justify="left", show_lines=True)
        for head in ("claim", "the paper", "here", "verdict"):
            grid.add_column(head)
        for row in rows:
            ruling = Text(row.finding.verdict, style=styles.get(row.finding.verdict, ""))
            if len(page.rows) == 1:
                ruling.append(f"\n{row.finding.note}", style="")
            texts = (row.claim.sentence, row.claim.paper, f"{row.finding.text}\n--claim {row.claim.id}")
            grid.add_row(*(Text(t) for t in texts), ruling)
        Console(soft_wrap=False).print(grid)
    if len(page.rows) > 1:
        typer.echo(page.tally)
