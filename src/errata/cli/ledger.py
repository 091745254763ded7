"""errata log, errata undo, errata diff, errata reapply."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.edit import corrected, named
from errata.cli.plain import echo_json, plain, shown

__all__ = ["diff", "log", "reapply", "undo"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Run = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")]
Author = Annotated[str, typer.Option(help="Who does this, as `errata log` is to show it.")]


def log(
    directory: Run,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last so many edits.")] = None,
    as_json: Json = False,
) -> None:
    """Show every edit of a run directory: what, when, by whom, how large, and what the guard said."""
    from errata.analysis.frames import load_run
    from errata.analysis.ledger import ledger

    lines = ledger(load_run(directory))[-(last or 0) :]
    if as_json:
        echo_json(plain([asdict(line) for line in lines]))
        return
    for line in lines:
        who = f"  {shown(line.author)}" if line.author else ""
        size = f"  ‖ΔW‖/‖W₀‖ {line.relative:.3g}" if line.norms else ""
        own = "" if line.id == str(line.edit) else f"  id {shown(line.id)}"
        canary = f"  canary {line.signals['kl']:.3g}" if "kl" in line.signals else ""
        back = f"  (taken back {line.undone_at} {shown(line.undone_by)})".replace(" )", ")") if line.undone_at else ""
        typer.echo(f"{line.edit:>5}  {line.at or '(time unknown)'}{who}  {line.status}{back}{own}{size}{canary}")
        typer.echo("       " + shown(f"{line.prompt.replace('{}', line.subject)} … {line.target}"))
        if line.verdict:
            typer.echo(f"       {shown(line.verdict)}")
        if line.holds is False:
            typer.echo(f"       does not hold since edits were taken back: the model says {shown(line.says)!r}")
    if not lines:
        typer.echo("no edit has been made.")


def undo(
    directory: Run,
    last: Annotated[int | None, typer.Option(min=1, help="Take back the last so many edits; 1 by default.")] = None,
    edit: Annotated[
        int | None, typer.Option("--edit", min=1, help="Take back the edit with this number, as errata log shows it.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", help="Take back the edit with this id.")] = None,
    author: Author = "",
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Ask the model which facts still hold; loads it.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Take edits back: the weights become what they would be had these never been added."""
    from errata.errors import ConfigError, ErrataError
    from errata.studies.ledger import holding
    from errata.studies.ledger import undo as go

    if sum(given is not None for given in (last, edit, id)) > 1:
        raise ConfigError("give --last, --edit or --id, not both.")
    found = go(directory, last=last, id=id, edit=edit, author=author)
    facts, unknown = [], ""
    if measure:
        try:
            facts = holding(directory, found.ids)
        except ErrataError as e:  # the edits are taken back all the same
            unknown = str(e)
    if as_json:
        echo_json({**asdict(found), "holding": [asdict(fact) for fact in facts], "not_measured": unknown})
        return
    for number, name, fact in zip(found.edits, found.ids, found.facts, strict=True):
        typer.echo(f"took back {named(number, name)}: {shown(fact)}")
    typer.echo(f"{found.left} edit{' is' if found.left == 1 else 's are'} in the weights.")
    lost = [fact for fact in facts if not fact.holds]
    if facts:
        typer.echo(f"{len(facts) - len(lost)} of {len(facts)} facts that stand and were asked for hold.")
    for kept in lost:
        typer.echo(f"does not hold: {named(kept.edit, kept.id)}: {shown(kept.prompt)} … {shown(kept.target)}")
        typer.echo(f"  the model says {shown(kept.says)!r}; edit the fact anew, or take it back as well")
    if unknown:
        typer.echo(f"which facts still hold was not measured: {unknown}")
    if not found.last:
        typer.echo("later edits were replayed as they were computed, not as they would be computed without it.")
    if not found.finished:
        typer.echo("the run had not reached its end; with edits taken back it cannot be resumed.")


def diff(
    directory: Run,
    begin: Annotated[int, typer.Option("--from", min=0, help="After how many edits; 0 is the unedited model.")] = 0,
    end: Annotated[int | None, typer.Option("--to", min=0, help="The same; the present by default.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, a prompt a line; by default the prompts edited between the two.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two states of the model on prompts, what moved most first."""
    from errata.studies.ledger import differences

    found = differences(directory, begin, end, _lines(prompts) if prompts else [])
    if as_json:
        echo_json(plain([asdict(d) for d in found]))
        return
    for d in found:
        typer.echo(f"{shown(d.prompt)}   (KL {d.kl:.3g})")
        typer.echo(f"  step {begin:<6} {shown(d.before)}\n  {'then':<11} {shown(d.after)}")


def _lines(file: Path) -> list[str]:
    """Return a text file's lines that are not blank."""
    from errata.errors import ConfigError
    from errata.files import read_text

    return [line for line in read_text(file, ConfigError, "--prompts").split("\n") if line.strip()]


def reapply(
    directory: Run,
    model: Annotated[str, typer.Option(help="The new base model.")],
    out: Annotated[Path, typer.Option(help="The run directory to make.")],
    method: Annotated[str | None, typer.Option(help="Another editing method than before.")] = None,
    guard: Annotated[
        bool, typer.Option("--guard/--no-guard", help="Judge every update on a canary before it lands.")
    ] = True,
    refused: Annotated[
        bool, typer.Option("--refused", help="The refused facts instead of those in the weights.")
    ] = False,
    author: Author = "",
    override: Annotated[list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="Override a setting.")] = None,
    as_json: Json = False,
) -> None:
    """Propose a run directory's facts anew on another base model; updates are computed again, never copied."""
    from errata.cli.terminal import TerminalProgress
    from errata.studies.correct import correction_recipe
    from errata.studies.edited import recorded_recipe
    from errata.studies.ledger import facts_to_reapply
    from errata.studies.store import RunStore

    progress = TerminalProgress(out.name)
    facts = facts_to_reapply(directory, refused=refused, tell=progress.tell)
    before = recorded_recipe(RunStore(directory))
    name = method or before.method.name
    progress.tell(
        f"{len(facts)} facts of {directory} are proposed anew on {model} by {name}, with the settings resolved for it: "
        f"what was computed for {before.model.name} does not fit another model."
    )
    size = before.edits.batch_size
    recipe = correction_recipe(
        model,
        name,
        out,
        len(facts),
        batch_size=size,
        guard=guard,
        author=author,
        overrides=override or (),
        tell=progress.tell,
    )
    corrected(facts, recipe, out, progress, skip_bad=True, as_json=as_json)
