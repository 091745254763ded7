"""The model card: what the exported model is, every edit in it, what was measured, and what is known to be broken."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jinja2
import yaml

from errata.analysis.curves import Series, curve
from errata.analysis.frames import RunFrames, load_run
from errata.analysis.room import measured_before
from errata.analysis.verdict import Verdict
from errata.edits import Fact
from errata.errors import AnalysisError
from errata.report.keys import Key, keys
from errata.report.page import Judged
from errata.report.words import DASH, number, share
from errata.trajectory import Entry

__all__ = ["Contents", "card", "plain"]

_REFUSED = ("rolled-back", "failed", "undone")
_SIGNS = re.compile(r"[#$&*<=>@\[\\\]_`{|}~]|:(?!\s)|(?<=www)\.", re.IGNORECASE)
"""The ASCII signs that mean something in Markdown or HTML within a line; a bare address is a link of its own."""
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Marks that turn the direction of what follows, beyond the text they stand in."""


class _Fixed(str):
    """Text of the template's own making, which is not escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Contents:
    """What a card tells beside what the run directory holds.

    Args:
        what: the form in words.
        usage: how it is loaded, in Python.
        serve: how it is served, as a command; empty where that is not particular.
        note: a sentence below that; empty when there is nothing to add.
        relation: to the base model, as hubs name it: "finetune" or "adapter".
        exported: what was measured at the export, a sentence each.
        entries: the journal.
        facts: by id.
        stated: which facts the exported form states, by id.
    """

    what: str
    usage: str
    serve: str
    note: str
    relation: str
    exported: Sequence[str]
    entries: Sequence[Entry]
    facts: Mapping[str, Fact]
    stated: Mapping[str, bool]


@dataclass(frozen=True)
class _Row:
    edit: int
    id: str
    subject: str
    prompt: str
    old: str
    new: str
    status: str
    stated: str


def card(run: Path, contents: Contents) -> str:
    """Return the card of an exported run as Markdown; all that comes from outside is escaped.

    Args:
        run: the run directory.
        contents: of the export.
    """
    frames = load_run(run)
    undone = sum(entry.status == "undone" for entry in contents.entries)
    judged = None if undone else _judged(run)  # what was measured before is another model's
    method, model = frames.method, str(frames.info["config"]["model"]["name"])
    applied = sum(entry.applied for entry in contents.entries)
    front = {
        "base_model": model,
        "base_model_relation": contents.relation,
        "library_name": "peft" if contents.relation == "adapter" else "transformers",
        "tags": ["knowledge-editing", method, "errata"],
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("errata.export"),
        autoescape=False,  # that is HTML's; here every value is escaped for Markdown by `finalize`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, _Fixed) else plain(str(value)),
    )
    return environment.get_template("card.md.j2").render(
        front=_Fixed(yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()),
        title=f"{Path(model).name}, corrected",
        model=model,
        method=method,
        edits=len(contents.entries),
        applied=applied,
        planned=int(frames.info.get("stream", {}).get("n", 0)),
        version=version("errata"),
        what=contents.what,
        usage=_fenced(contents.usage, "python"),
        serve=_fenced(contents.serve, "bash"),
        note=contents.note,
        verdict=judged.verdict.sentences if judged else (),
        keys=_keys(judged),
        exported=contents.exported,
        damage=list(_damage(contents, judged)),
        losses=list(_losses(frames, judged)),
        rows=[_row(entry, contents) for entry in contents.entries],
    )


def plain(text: str) -> str:
    """Return a text of any content as Markdown that shows it and does nothing else.

    Character references have no meaning for a Markdown parser beyond the character they show: no tag, link, table
    cell or emphasis can begin with one.
    """
    one_line = " ".join(_TURNS.sub("", text).split())
    return _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", one_line)


def _fenced(text: str, language: str) -> _Fixed:
    """Return a text in a fenced block, whose fence is longer than any run of backticks in it; nothing for nothing."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return _Fixed(f"{fence}{language}\n{text}\n{fence}" if text else "")


def _judged(run: Path) -> Judged | None:
    """Return the verdict on a run; None where too little was measured for one."""
    try:
        return Judged.of(run)
    except AnalysisError:
        return None


def _keys(judged: Judged | None) -> Sequence[Key]:
    if judged is None or judged.verdict.safe is None:
        return ()
    return keys(judged.verdict, judged.curves)


def _row(entry: Entry, contents: Contents) -> _Row:
    fact = contents.facts.get(entry.id)
    stated = contents.stated.get(entry.id)
    return _Row(
        entry.edit,
        entry.id,
        entry.subject,
        fact.text if fact else DASH,
        (fact.target_true if fact else "") or DASH,
        fact.target_new if fact else DASH,
        f"{entry.status}: {entry.verdict}" if entry.verdict else entry.status,
        DASH if stated is None else "yes" if stated else "no",
    )


def _damage(contents: Contents, judged: Judged | None) -> Iterator[str]:
    """Yield what is known to be wrong with the model, and what is not known."""
    entries = contents.entries
    if large := [e for e in entries if e.status in ("disabling", "nonfinite")]:
        yield f"{_named(large)} judged to disable a model and applied all the same."
    for status in _REFUSED:
        if found := [e for e in entries if e.status == status]:
            yield f"{_named(found)} {status} and not in the model."
    if missed := [e for e in entries if contents.stated.get(e.id) is False]:
        yield f"{_named(missed)} applied, but the model does not state the new object right behind the prompt."
    if undone := sum(e.status == "undone" for e in entries):
        yield f"What the edits cost elsewhere was {measured_before(undone)}, and not since: it is left out here."
        return
    verdict: Verdict | None = judged.verdict if judged else None
    if verdict is None or verdict.safe is None:
        yield "What the edits cost elsewhere was not measured: nothing is known of unrelated facts and other abilities."
        return
    if verdict.safe < verdict.edits:
        yield f"Only the first {verdict.safe:,} of {verdict.edits:,} edits were safe: see the verdict above."
    measured = {e.group for e in verdict.curves}
    kinds = {"knowledge": "facts that nobody edited", "downstream": "tasks", "forgetting": "earlier edits"}
    if unknown := [words for group, words in kinds.items() if group not in measured]:
        yield f"Not measured: {', '.join(unknown)}."


def _named(entries: Sequence[Entry]) -> str:
    names = ", ".join(f"{e.edit} ({e.subject})" for e in entries[:5])
    more = f" and {len(entries) - 5:,} more" if len(entries) > 5 else ""
    return f"{len(entries):,} edit{'s' if len(entries) > 1 else ''} ({names}{more}):"


def _losses(run: RunFrames, judged: Judged | None) -> Iterator[tuple[str, str, str]]:
    """Yield every followed ability as it was and as it is."""
    if judged is None:
        return
    for e in judged.verdict.curves:
        if e.group in ("knowledge", "downstream") and len(e.series):
            before, after = _ends(e.series)
            yield e.label, share(before), share(after)
    others = (("same_subject.exact", "other facts of edited subjects", share), ("perplexity", "perplexity", number))
    for metric, label, say in others:
        if len(series := curve(run, metric)):
            before, after = _ends(series)
            yield label, say(before), say(after)


def _ends(series: Series) -> tuple[float | None, float]:
    """Return a curve's figure on the unedited model, where it was measured there, and its last."""
    return float(series.values[0]) if series.steps[0] == 0 else None, float(series.values[-1])
