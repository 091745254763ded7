"""errata ask."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from errata.studies.questions.question import Question
    from errata.studies.reproduce.work import Size, Work

__all__ = ["ask"]


def ask(
    question: Annotated[
        str, typer.Argument(help="age, bleeding, order, batches, tradeoff, layers, or furthest (the leaderboard).")
    ],
    model: Annotated[str | None, typer.Option(help="A lab model; the question's own when absent.")] = None,
    out: Annotated[Path | None, typer.Option(help="The runs' directory; runs/questions-MODEL when absent.")] = None,
    edits: Annotated[int | None, typer.Option(min=2, help="Edits of each run; the question's own when absent.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Orders or draws of each kind of run.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Fill the made part of this page too; its prose stays.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Where that page's picture goes; beside it when absent.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Answer a question that the papers leave open: make the runs it takes, read their rows, draw what they say."""
    from errata.errors import ConfigError, RunError
    from errata.studies.questions.asked import question as find
    from errata.studies.questions.page import block, check_page, fill, picture_of, write
    from errata.studies.reproduce.work import Size

    asked = find(question)
    size = Size(model or asked.model, edits or asked.edits, samples or asked.samples)
    own = size.edits == asked.edits or asked.grows
    target = out or Path("runs") / "-".join(["questions", size.model, *([] if own else [str(size.edits)])])
    work = asked.work(size, target)
    asked.check(size, work)
    if figure is not None and page is None:
        raise ConfigError(
            f"--figure {figure} is the picture of a page, and --page is not given. Name the page, or take "
            f"{target / 'answers' / asked.name}.svg, where the picture lies in any case."
        )
    if page is not None:
        check_page(page)
    if dry_run:
        _say_plan(asked, size, work, target, as_json)
        return
    until = size.edits if asked.grows else None
    results = asked.make(work, target, processes=processes, until=until, tell=_tell)
    missing = results.missing(("*",))
    if len(missing) == len(work.runs):
        raise RunError(f"none of the {len(missing)} runs in {target} was made, for the reasons above.")
    answer = asked.answer(results)
    command = _command(asked, size, out)
    written = write(asked, size, answer, target, command, missing)
    if page is not None:
        picture = figure or page.with_suffix(".svg")
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(written[1].read_bytes())
        fill(page, asked.title, block(asked, size, answer, picture_of(page, picture), command, missing))
    if as_json:
        typer.echo(written[0].read_text(encoding="utf-8"), nl=False)
        return
    for table in answer.tables:
        typer.echo(table.markdown())
    typer.echo(f"{written[1]}\n{written[0]}")


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def _command(asked: "Question", size: "Size", out: Path | None) -> str:
    """Return the command that makes everything of this size."""
    words = ["errata", "ask", asked.name]
    words += ["--model", size.model] if size.model != asked.model else []
    words += ["--edits", str(size.edits)] if size.edits != asked.edits else []
    words += ["--samples", str(size.samples)] if size.samples != asked.samples else []
    words += ["--out", str(out)] if out else []
    return shlex.join(words)


def _say_plan(asked: "Question", size: "Size", work: "Work", out: Path, as_json: bool) -> None:
    """Say which runs are there and which would be made."""
    from errata.studies.engine import begun
    from errata.studies.store import RunStore

    places = {name: out / "runs" / name for name in work.runs}
    reached = {name: RunStore(place).reached() if begun(place) else 0 for name, place in places.items()}
    wanted = {n: min(size.edits or 0, r.edits.n or 0) if asked.grows else r.edits.n or 0 for n, r in work.runs.items()}
    missing = [n for n, place in places.items() if reached[n] < wanted[n] and not asked.over(place)]
    edits = sum(wanted[name] - reached[name] for name in missing)
    if as_json:
        content = {"question": asked.name, "out": str(out), "runs": list(work.runs), "missing": missing}
        typer.echo(json.dumps(content | {"trainings": list(work.trainings), "edits": edits}, indent=1))
        return
    typer.echo(f"{asked.title} {asked.about(size)}")
    for name, place in places.items():
        typer.echo(f"{'to make' if name in missing else 'there  '}  {place}")
    for name in work.trainings:
        typer.echo(f"training  {out / 'trained' / name}, where a run needs it")
    least = " at most: a run ends at its fall" if asked.grows else ""
    cost = "an edit takes 0.01 to 0.5 s on one core"
    typer.echo(f"{len(missing)} of {len(work.runs)} runs, {edits:,} edits{least}; {cost}")
