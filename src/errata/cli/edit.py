"""errata edit."""

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata.cli.plain import echo_json, plain, shown
from errata.edits.relations import WORDINGS, taught_in_other_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from errata.analysis.correction import Correction, Cost, FactOutcome
    from errata.cli.terminal import TerminalProgress
    from errata.edits import Fact
    from errata.studies.recipe import Recipe

__all__ = ["corrected", "edit", "named", "text", "verdict"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
_SHOWN = 40  # facts; all stand in the run directory and in --json


def edit(
    facts: Annotated[Path, typer.Argument(help="Facts: JSON Lines or CSV with subject, prompt, target_new.")],
    model: Annotated[
        str, typer.Option(help="A model by name, a directory in Hugging Face layout, a GGUF file, or a hub name.")
    ],
    out: Annotated[Path, typer.Option(help="The run directory to make.")],
    method: Annotated[str, typer.Option(help="The editing method; see `errata methods`.")] = "memit",
    guard: Annotated[
        bool, typer.Option("--guard/--no-guard", help="Judge every update on a canary before it lands.")
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Facts in one update.")] = 1,
    author: Annotated[str, typer.Option(help="Who makes the edits, as `errata log` is to show it.")] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave malformed records out and edit the others.")
    ] = False,
    wordings: Annotated[
        int, typer.Option(min=0, help="In how many other words of its relation a fact is taught, where it is known.")
    ] = WORDINGS,
    override: Annotated[list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="Override a setting.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan and its cost, edit nothing; every setting with --json."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Correct a model's facts under guard; show each before and after, what it cost, and how many more are safe."""
    from errata.cli.terminal import TerminalProgress
    from errata.studies.correct import correction_recipe, read_facts, remarks

    progress = TerminalProgress(out.name)
    places: dict[str, str] = {}
    given = read_facts(facts, skip_bad=skip_bad, tell=progress.tell, places=places)
    chosen = taught_in_other_words(given, wordings)
    reworded = sum(new.teaching_prompts != old.teaching_prompts for new, old in zip(chosen, given, strict=True))
    if reworded:
        progress.tell(
            f"{reworded} of {len(chosen)} facts are also taught in other words of their relations; "
            f"--wordings 0 leaves that out"
        )
    recipe = correction_recipe(
        model,
        method,
        out,
        len(chosen),
        batch_size=batch_size,
        guard=guard,
        author=author,
        overrides=override or (),
        tell=progress.tell,
    )
    if dry_run:
        from errata.edits import EditStream
        from errata.studies.plan import plan

        for remark in remarks(chosen):
            progress.tell(remark)
        planned = plan(recipe, out, EditStream(tuple(chosen), batch_size))
        typer.echo(planned.as_json() if as_json else planned.brief(str(facts)))
        return
    corrected(chosen, recipe, out, progress, skip_bad=skip_bad, as_json=as_json, places=places)


def corrected(
    facts: "Sequence[Fact]",
    recipe: "Recipe",
    out: Path,
    progress: "TerminalProgress",
    *,
    skip_bad: bool,
    as_json: bool,
    places: "Mapping[str, str] | None" = None,
) -> None:
    """Edit facts into a run directory and print the verdict; an interruption says how to go on."""
    from errata.editors.registry import origin_of_settings
    from errata.models import load
    from errata.studies.correct import correct, readable
    from errata.studies.store import RunStore

    RunStore(out).check_free()  # before anything takes its time; `correct` asks again
    asked = recipe.model
    progress.doing(f"loading {asked.name}", 0, 1)
    model = load(asked.name, dtype=asked.dtype, device=asked.device, device_map=asked.device_map, tell=progress.tell)
    progress.doing(f"loading {asked.name}", 1, 1)
    chosen = readable(model, facts, skip_bad=skip_bad, tell=progress.tell, places=places)
    own = ", ".join(f"{name}={value}" for name, value in recipe.method.settings.items())
    progress.tell(
        f"{recipe.method.name}: {origin_of_settings(recipe.method.name, model)}" + (f"; over them {own}" if own else "")
    )
    try:
        correct(chosen, recipe, out, model, progress)
    except KeyboardInterrupt:
        progress.end()
        how = f"go on with: errata resume {out}" if (out / "run.json").exists() else "nothing was begun."
        sys.stderr.write(f"interrupted; {how}\n")
        sys.exit(130)
    finally:
        progress.end()
    from errata.analysis.correction import correction
    from errata.analysis.frames import load_run

    found = correction(load_run(out))
    if as_json:
        echo_json(verdict(found, out))
    else:
        typer.echo(text(found, out))


def verdict(found: "Correction", out: Path) -> dict[str, Any]:
    """Return the verdict on a run directory of corrections as JSON takes it; NaN is null there."""
    low, high = found.took_interval
    record = {
        "run": str(out),
        "facts": [asdict(fact) for fact in found.facts],
        "took": found.took,
        "asked": found.asked,
        "took_interval": [low, high],
        "refused": [fact.id for fact in found.refused],
        "gentler": found.gentler,
        "damped": found.damped,
        "undone": found.undone,
        "paraphrases": found.paraphrases and {"before": found.paraphrases.before, "after": found.paraphrases.after},
        "costs": {cost.name: {"before": cost.before, "after": cost.after} for cost in found.costs},
        "room": {**asdict(found.room), "says": str(found.room)},
    }
    cleaned: dict[str, Any] = plain(record)
    return cleaned


def text(found: "Correction", out: Path) -> str:
    """Return the verdict in words; nothing that a model or a fact says is obeyed by a terminal."""
    from errata.analysis.room import measured_before
    from errata.export.suits import suiting

    lines = []
    names = {fact.id: named(fact.edit, fact.id) for fact in found.facts}
    for fact in found.facts[:_SHOWN]:
        why = f": {shown(fact.reason)}" if fact.reason else ""
        lines += [
            f"{fact.edit:>3}  {shown(fact.prompt)} → {shown(fact.target)}   [{_state(fact, names)}{why}]",
            f"  before  {shown(fact.before)}   (P {fact.p_before:.3f})",
        ]
        if not found.undone and not fact.superseded_by:
            lines.append(f"  after   {shown(fact.after)}   (P {fact.p_after:.3f})")
            if fact.took is False and fact.cause:
                lines.append(f"  likely  {shown(fact.cause)}")
    if len(found.facts) > _SHOWN:
        lines.append(f"... and {len(found.facts) - _SHOWN} more: errata log {out}")
    if found.undone:
        lines.append(f"\nWhich facts took, and at what cost, was {measured_before(found.undone)}; it is left out.")
    else:
        low, high = found.took_interval
        lines.append(f"\n{found.took} of {found.asked} facts took (95 % interval {low:.0%} to {high:.0%}).")
    counts = {
        "that a later fact gave another object": sum(fact.superseded_by != "" for fact in found.facts),
        "already stated by an earlier fact": sum(fact.repeats != "" for fact in found.facts),
    }
    if left_out := [f"{count} {why}" for why, count in counts.items() if count]:
        lines.append(f"Not counted: {', '.join(left_out)}.")
    lines.append(_guard(found))
    if found.refused:
        refused = "; ".join(f"{named(fact.edit, fact.id)}: {shown(fact.subject)}" for fact in found.refused[:5])
        more = f"; {len(found.refused) - 5} more" if len(found.refused) > 5 else ""
        lines.append(f"{len(found.refused)} not made, with the reason in {out / 'quarantine.jsonl'}: {refused}{more}")
    lines += _costs(found)
    lines += ["", str(found.room)[:1].upper() + str(found.room)[1:]]
    exports = [f"errata export {out} --as {form} --out DIR" for form in suiting(out, found.method)[:1]]
    lines.append("next: " + ", ".join([f"errata log {out}", f"errata report {out}", *exports]))
    return "\n".join(lines)


def _guard(found: "Correction") -> str:
    """Say whether the guard was on, and what it did."""
    if not found.guarded:
        return "Guard: off. Every update landed, whatever it cost."
    refused = sum(fact.status == "rolled-back" for fact in found.facts)
    failed = len(found.refused) - refused
    did = {"made smaller": found.damped, "made with a gentler setting": found.gentler}
    also = "".join(f", {count} {what}" for what, count in did.items() if count)
    also += f"; {failed} failed before it could judge" if failed else ""
    return f"Guard: on. It refused {refused or 'none'} of {len(found.facts)} edits{also}."


def _costs(found: "Correction") -> list[str]:
    """Say what moved: the facts in other words, then what nobody edited; what is as it was stands on one line."""
    from errata.analysis.curves import main_figures

    tasks = main_figures(cost.name for cost in found.costs).values()
    costs = [cost for cost in found.costs if cost.name in tasks or not cost.name.startswith("downstream.")]
    rows = [_row(cost) for cost in costs]
    moved = [row for row in rows if row[1] != row[2]]
    if found.paraphrases:
        moved.insert(0, _row(found.paraphrases))
    room = found.room
    lines = [f"  {name:<36} {before:>8} → {after}" for name, before, after in moved]
    if not math.isnan(room.level):
        lines.append(f"  {'canary, KL in nats':<36} {'0':>8} → {room.level:.3f}   of {room.budget:g}")
    if same := [f"{name} {after}" for name, before, after in rows if before == after]:
        lines.append(f"  unchanged: {', '.join(same)}")
    return lines


def _row(cost: "Cost") -> tuple[str, str, str]:
    """Return what a figure is called, and how it is said before and after: a perplexity, or a share in per cent."""
    from errata.report.words import DEAD, figure

    before, after = (
        DEAD if not math.isfinite(value) else f"{value:.2f}" if cost.name == "perplexity" else f"{value * 100:.1f} %"
        for value in (cost.before, cost.after)
    )
    return shown(figure(cost.name)), before, after


def named(number: int, name: str) -> str:
    """Return what an edit is called everywhere: its number, and its fact's id where that is not the same."""
    return str(number) if name == str(number) else f"{number} (id {shown(name)})"


def _state(fact: "FactOutcome", names: "Mapping[str, str]") -> str:
    """Say in a few words what became of a fact."""
    if fact.superseded_by:
        return f"superseded by fact {names[fact.superseded_by]}"
    took = {True: "took", False: "did not take", None: fact.status}[fact.took]
    state = took if fact.status == "applied" else {"rolled-back": "refused"}.get(fact.status, fact.status)
    return f"{state}, repeats fact {names[fact.repeats]}" if fact.repeats else state
