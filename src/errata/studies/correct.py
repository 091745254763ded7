"""Correct a list of facts: read them, fill in what they lack, edit them under guard into a run directory."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from errata.editors.contexts import ContextSettings, sample_contexts
from errata.edits import Check, EditStream, Fact
from errata.edits.check import foreign_characters
from errata.edits.dataset import DataReport
from errata.edits.jsonl import read_own
from errata.errors import ConfigError, EditDataError
from errata.models import EditableModel, check_answers
from errata.probes.generation import generate
from errata.probes.scoring import score
from errata.studies.embedded import check_embedded
from errata.studies.progress import Progress
from errata.studies.recipe import Recipe, load_recipe
from errata.studies.run import run

__all__ = ["GENERATED", "correct", "correction_recipe", "filled_in", "held", "read_facts", "readable", "remarks"]

GENERATED = "generated"
"""What the groups of checks begin with that are not the user's own: their answers are the unedited model's."""

_SHOWN = 20  # malformed records, of all that there are
_NAMED = 3  # facts, of all that a remark is about
_MEASURED = 10  # times that what was not edited is asked for along the way
_PREFIXES = ContextSettings(lengths=((5, 2),))
_NEIGHBORS = 2  # a fact
_ANSWER = 6  # tokens of a neighbor's answer, of which the first word is asked for
_MARGIN = 16  # tokens that a method may put before a prompt


def read_facts(
    path: Path,
    *,
    skip_bad: bool = False,
    tell: Callable[[str], None] = lambda message: None,
    places: dict[str, str] | None = None,
) -> list[Fact]:
    """Read facts from JSON Lines, JSON or CSV.

    Args:
        path: the file.
        skip_bad: leave malformed records out, and tell of each; else they are refused all together, before any edit.
        tell: receives one remark a malformed record.
        places: receives the file and line of each fact, by its id.

    Raises:
        EditDataError: when records are malformed, each named with line and field; or when there are none.
    """
    found: list[str] = []
    facts = read_own(str(path), lambda error: found.append(str(error)), places)
    return _accepted(facts, found, str(path), skip_bad, tell)


def readable(
    model: EditableModel,
    facts: Sequence[Fact],
    *,
    skip_bad: bool,
    tell: Callable[[str], None] = lambda message: None,
    places: Mapping[str, str] | None = None,
) -> list[Fact]:
    """Return the facts that the model can read: prompt and object fit its positions, the object has tokens.

    Args:
        model: the model to be edited.
        facts: the facts.
        skip_bad: as in `read_facts`.
        tell: as in `read_facts`.
        places: where facts stand, by their ids; a fact without is named by its id.
    """
    found, good = [], []
    for fact in facts:
        try:
            ids = model.encode([fact.text])[0]
            model.check_length(
                [*ids, *model.encode_target(fact.target_new, fact.text, fact.join), *[0] * _MARGIN], "it"
            )
            before, _, after = fact.prompt.partition("{}")
            model.subject_last(before, fact.subject, after)
            check_embedded(model, fact)
        except EditDataError as e:
            place = (places or {}).get(fact.id, f"fact {fact.id!r}")
            found.append(f"{place} ({fact.subject[:40]}): {e}")
            continue
        good.append(fact)
    return _accepted(good, found, f"{model.name} with these facts", skip_bad, tell)


def _accepted(
    facts: list[Fact], found: Sequence[str], what: str, skip_bad: bool, tell: Callable[[str], None]
) -> list[Fact]:
    if found and not skip_bad:
        more = f"\n... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        listed = "\n".join(found[:_SHOWN])
        raise EditDataError(
            f"{listed}{more}\n{len(found)} of {len(found) + len(facts)} records cannot be edited; nothing was. Mend "
            f"them, or leave them out: --skip-bad."
        )
    for line in found:
        tell(f"left out: {line}")
    if not facts:
        raise EditDataError(f"{what}: no fact that can be edited.")
    return facts


def remarks(facts: Sequence[Fact]) -> list[str]:
    """Return what is unusual among facts, one line each; what they lack is filled in or not asked for, so not told."""
    report = DataReport.of(facts)
    return replace(report, without_true=0, without_paraphrases=0, without_neighborhood=0).lines()


def held(model: EditableModel, facts: Sequence[Fact]) -> list[str]:
    """Return a remark on the facts that a model states before any edit: every token of the object the most probable.

    To edit them is no error; that they are stated afterwards says nothing of the edit.

    Args:
        model: the unedited model.
        facts: what is to be taught.
    """
    found = score(model, [(fact.text, fact.target_new) for fact in facts], [fact.join for fact in facts])
    known = [f"{f.text} → {f.target_new}" for f, s in zip(facts, found, strict=True) if s.exact == 1.0]
    if not known:
        return []
    more = f", and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return [
        f"the model holds {len(known)} of {len(facts)} facts already: {'; '.join(known[:_NAMED])}{more}. They are "
        f"edited all the same; leave them out where that is not wanted."
    ]


def filled_in(model: EditableModel, facts: Sequence[Fact], seed: int = 0) -> list[Fact]:
    """Return the facts with paraphrases and neighbors where they have none. No fact is invented.

    A paraphrase is the fact's own prompt behind a sentence that the unedited model wrote (ROME's contexts,
    2202.05262 §3.1). A neighbor is the same prompt about the subject of another fact, where no fact edits that; what
    the unedited model answers, its first word, is what it should go on saying: a check of the kind "locality".

    Args:
        model: the unedited model.
        facts: the facts.
        seed: of the sampled sentences and of the choice of neighbors.
    """
    rng = Random(seed)
    templates = [_clean(template) for template in sample_contexts(model, _PREFIXES, rng)]
    edited = {(fact.subject.lower(), fact.prompt) for fact in facts}
    subjects = list(dict.fromkeys(fact.subject for fact in facts))
    asked: dict[str, list[str]] = {}
    for fact in facts:
        if not fact.neighborhood_prompts and not any(not check.follows for check in fact.checks):
            others = [s for s in subjects if (s.lower(), fact.prompt) not in edited]
            chosen = rng.sample(others, min(_NEIGHBORS, len(others)))
            asked[fact.id] = [fact.prompt.replace("{}", subject) for subject in chosen]
    prompts = list(dict.fromkeys(prompt for found in asked.values() for prompt in found))
    texts = generate(model, prompts, _ANSWER)
    answers = {prompt: next(iter(_clean(text).split()), "") for prompt, text in zip(prompts, texts, strict=True)}
    whole = []
    for fact in facts:
        paraphrases = fact.paraphrase_prompts or tuple(t.replace("{}", fact.text) for t in templates)
        made = [
            Check(prompt, (answers[prompt],), kind="locality", group=f"{GENERATED} {number}")
            for number, prompt in enumerate(asked.get(fact.id, ()), 1)
            if answers[prompt]
        ]
        whole.append(replace(fact, paraphrase_prompts=paraphrases, checks=(*fact.checks, *made)))
    return whole


def _clean(text: str) -> str:
    """Return what a model wrote without the characters that no fact may hold."""
    return "".join(" " if foreign_characters(character) else character for character in text)


def correction_recipe(
    model: str,
    method: str,
    out: Path,
    n: int,
    *,
    batch_size: int = 1,
    guard: bool = True,
    author: str = "",
    overrides: Sequence[str] = (),
    tell: Callable[[str], None] = lambda message: None,
) -> Recipe:
    """Return the recipe of a correction: probes at the start, at the end and a few times between.

    Args:
        model: what is edited.
        method: how; settings are resolved for the model.
        out: the run directory.
        n: how many facts.
        batch_size: facts in one update.
        guard: whether each update is judged on a canary before it lands.
        author: who makes the edits.
        overrides: `key=value` pairs over all of it.
        tell: receives one remark where they name another method; see `load_recipe`.
    """
    every = max(1, math.ceil(n / _MEASURED))
    content: dict[str, Any] = {
        "model": {"name": model},
        "method": {"name": method},
        "edits": {"dataset": "jsonl", "batch_size": batch_size},
        "probes": [
            {"name": "proficiency"},
            {"name": "forgetting", "every": every},
            {"name": "ripple"},
            {"name": "unrelated", "every": every},
            {"name": "downstream", "every": max(every, n // 2), "n": 30},
            {"name": "perplexity", "every": every},
            {"name": "drift", "every": every},
            {"name": "text"},
        ],
        "run": {"name": out.name, "author": author},
        "guard": {"enabled": guard},
    }
    recipe = load_recipe(content, overrides, tell)
    if recipe.edits.dataset != "jsonl" or recipe.edits.path is not None or recipe.edits.n is not None:
        raise ConfigError(
            "what is edited are the facts given: leave edits.dataset, edits.path and edits.n as they are."
        )
    return recipe


def correct(
    facts: Sequence[Fact], recipe: Recipe, out: Path, model: EditableModel, progress: Progress | None = None
) -> Path:
    """Edit facts into a new run directory.

    Args:
        facts: what to teach, ids unique.
        recipe: from `correction_recipe`.
        out: the run directory; must not hold a run.
        model: the unedited model; given back unedited.
        progress: told of every edit.

    Returns:
        The run directory; `errata.studies.edited.open_edited` gives its model.
    """
    progress = progress or Progress()
    check_answers(model)  # before anything is sampled from it
    progress.doing("asking the unedited model", 0, 1)
    for remark in [*remarks(facts), *held(model, facts)]:
        progress.tell(remark)
    stream = EditStream(tuple(filled_in(model, facts, recipe.run.seed)), recipe.edits.batch_size)
    progress.doing("asking the unedited model", 1, 1)
    if not any(fact.checks for fact in stream.facts):  # a fact alone has no neighbors, and the probe nothing to ask
        recipe = recipe.model_copy(update={"probes": tuple(p for p in recipe.probes if p.name != "ripple")})
    return run(recipe, out, progress, model, stream)
