"""Turn a recipe into the live objects of a run: model, facts, editor, probes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

from errata.editors.base import Editor
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.settings import EditorSettings
from errata.editors.statistics import StatisticsStore, default_cache
from errata.editors.text_source import TextSource
from errata.editors.value_settings import ValueSettings
from errata.edits import EditStream
from errata.edits.datasets import load_stream
from errata.errors import ConfigError
from errata.models import EditableModel, check_answers, load
from errata.models.chat import ChatForm
from errata.probes import probe_class
from errata.probes.base import Probe
from errata.probes.continuations import ContinuationSettings
from errata.studies.embedded import check_stream
from errata.studies.guarded import with_alternatives, with_retry
from errata.studies.recipe import Recipe
from errata.validation import explain

__all__ = [
    "Session",
    "build_probe",
    "open_session",
    "prepare",
    "prepare_editor",
    "prepare_probes",
    "reading",
    "resolved",
    "sources",
]


@dataclass(frozen=True)
class Session:
    """What a run works with; `recipe` has every setting resolved.

    `proposer` is what a trajectory edits with: the method, together with the further settings that its guard may try.
    """

    recipe: Recipe
    model: EditableModel
    stream: EditStream
    editor: Editor
    probes: tuple[Probe, ...]
    proposer: Editor


def open_session(
    recipe: Recipe,
    tell: Callable[[str], None] = lambda message: None,
    model: EditableModel | None = None,
    stream: EditStream | None = None,
) -> Session:
    """Load the model and the facts, and build editor and probes with resolved settings; nothing is computed yet.

    Args:
        recipe: what to run.
        tell: receives remarks on the data, one line each.
        model: used instead of loading the recipe's: its outline, where no weight is needed.
        stream: used instead of reading the recipe's data set: the facts that a run directory holds.

    Raises:
        ModelError: when the unedited model answers NaN.
    """
    if model is None:
        asked = recipe.model
        model = load(asked.name, dtype=asked.dtype, device=asked.device, device_map=asked.device_map, tell=tell)
    check_answers(model)
    model.chat = ChatForm(model.tokenizer, model.name) if recipe.edits.prompt_form == "chat" else None
    if stream is None:
        stream = load_stream(recipe.edits, recipe.model.name, tell)
    check_stream(model, stream.facts)
    settings = resolve_settings(recipe.method.name, model, recipe.method.settings)
    stream = stream.taught_by(taught_paraphrases(settings))
    editor = editor_class(recipe.method.name)(settings)
    probes = tuple(build_probe(section.name, section.settings) for section in recipe.probes)
    whole = _written_out(recipe, settings, probes)
    return Session(whole, model, stream, editor, probes, with_alternatives(editor, whole.guard))


def taught_paraphrases(settings: EditorSettings) -> int:
    """Return how many paraphrases of a fact a method's settings take part in teaching."""
    value = getattr(settings, "value", None)
    return value.paraphrases if isinstance(value, ValueSettings) else 0


def resolved(recipe: Recipe, model: EditableModel) -> Recipe:
    """Return a recipe with every setting of its method and its probes written out.

    Args:
        recipe: the recipe.
        model: the recipe's model, or its outline.
    """
    settings = resolve_settings(recipe.method.name, model, recipe.method.settings)
    return _written_out(recipe, settings, [build_probe(section.name, section.settings) for section in recipe.probes])


def _written_out(recipe: Recipe, settings: EditorSettings, probes: Sequence[Probe]) -> Recipe:
    whole = {
        **recipe.model_dump(mode="json"),
        "method": {"name": recipe.method.name, **settings.model_dump(mode="json")},
        "guard": with_retry(recipe.guard, settings).model_dump(mode="json"),
        "probes": [{"name": probe.name, **probe.settings.model_dump(mode="json")} for probe in probes],
    }
    return Recipe.model_validate(whole)


def sources(session: Session) -> dict[str, str]:
    """Return a fingerprint of every text and file, beside the facts, on which a run's figures depend."""
    found = {}
    settings = session.editor.settings
    statistics = getattr(settings, "statistics", None)
    if isinstance(statistics, TextSource):
        found[f"the statistics' text {statistics.source}"] = statistics.fingerprint()
    shown = {"demonstrations": getattr(settings, "demonstrations", None), "template": settings}
    for what, name in (("demonstrations", "path"), ("template", "template")):
        file = Path(str(getattr(shown[what], name, None) or ""))
        if file.is_file():
            found[f"the method's {what} {file}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    if session.model.chat is not None:
        template = json.dumps(session.model.tokenizer.chat_template, sort_keys=True)
        found["the model's chat template"] = hashlib.sha256(template.encode()).hexdigest()
    if any(isinstance(probe.settings, ContinuationSettings) for probe in session.probes):
        # The stream's own fingerprint leaves them out, as most runs never look at them.
        texts = [(fact.generation_prompts, fact.reference_texts) for fact in session.stream.facts]
        found["the facts' material for generation"] = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    for probe in session.probes:
        source = Path(str(getattr(probe.settings, "source", "")))
        if source.is_file():
            found[f"the source {source} of the probe {probe.name}"] = hashlib.sha256(source.read_bytes()).hexdigest()
        elif source.is_dir() and hasattr(probe, "files"):
            whole = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in probe.files()))
            found[f"the directory {source} of the probe {probe.name}"] = whole.hexdigest()
    return found


_Doing = Callable[[str, int, int], None]


def prepare(
    session: Session,
    doing: _Doing = lambda what, done, total: None,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> None:
    """Compute what editor and probes need of the unedited model; `doing` hears how far that is."""
    prepare_editor(session, doing, cache, tell)
    prepare_probes(session, doing)


def prepare_editor(
    session: Session,
    doing: _Doing = lambda what, done, total: None,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> None:
    """Compute what the editor needs of the unedited model; what falls short is told."""
    store = StatisticsStore(cache or default_cache(), partial(doing, "covariance statistics"), tell)
    what = f"preparing {session.recipe.method.name}"
    doing(what, 0, 1)
    session.proposer.prepare(session.model, store, Random(session.recipe.run.seed))
    doing(what, 1, 1)


def prepare_probes(session: Session, doing: _Doing = lambda what, done, total: None) -> None:
    """Compute what probes need of the unedited model."""
    for number, probe in enumerate(session.probes):
        doing("preparing probes", number, len(session.probes))
        with reading(session, probe):
            probe.prepare(session.model, session.stream.facts)
    doing("preparing probes", len(session.probes), len(session.probes))


def reading(session: Session, probe: Probe) -> AbstractContextManager[None]:
    """Return a block inside which the model reads prompts in the form that a probe's settings ask for."""
    form = probe.settings.prompt_form
    return session.model.form(session.recipe.edits.prompt_form if form == "edits" else form)


def build_probe(name: str, settings: dict[str, Any]) -> Probe:
    """Build a probe from its name and settings, naming what does not fit."""
    cls = probe_class(name)
    try:
        return cls(cls.Settings.model_validate(settings))
    except ValidationError as e:
        raise ConfigError(explain(e, cls.Settings, f"probes ({name})")) from e
