"""Try everything that a run will need, before it begins: what fails in hour nine should fail now."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from errata.editors.registry import editor_class
from errata.editors.text_source import OWN, TextSource
from errata.edits import Fact
from errata.errors import EditDataError, ErrataError, StatisticsError
from errata.models import EditableModel
from errata.probes.base import Probe
from errata.studies.findings import Finding
from errata.studies.machine import check_folder, check_machine
from errata.studies.plan import Plan, plan
from errata.studies.recipe import Recipe
from errata.studies.session import Session, open_session, reading, sources

__all__ = ["check_recipe", "doctor"]

_SHOWN = 3  # examples of a kind


def doctor(recipe: Recipe | None = None, out: Path | None = None) -> Iterator[Finding]:
    """Yield findings on this machine and, with a recipe, on all that its run would touch.

    Args:
        recipe: what would be run.
        out: where it would be written.
    """
    yield from check_machine()
    if recipe is not None:
        yield from check_recipe(recipe, out or Path("runs") / recipe.run.name)


def check_recipe(recipe: Recipe, out: Path) -> Iterator[Finding]:
    """Yield findings on a recipe: plan, memory, disk, model, facts, method, statistics, probes.

    The model is loaded and the probes are prepared, as the run would; nothing is edited or written.
    """
    try:
        planned = plan(recipe, out)
    except ErrataError as e:
        yield Finding("recipe", "failed", str(e))
        return
    memory = _memory(planned)
    yield memory
    yield _place(out, planned)
    if memory.state == "failed":
        return
    remarks: list[str] = []
    began = time.perf_counter()
    try:
        session = open_session(recipe, remarks.append)
    except ErrataError as e:
        yield Finding("model and facts", "failed", str(e))
        return
    model = session.model
    took = f"loaded in {time.perf_counter() - began:.0f} s with the facts"
    yield Finding("model", "ok", f"{model.name}: family {model.family.name}, {planned.parameters / 1e6:,.1f} M, {took}")
    yield from _facts(session, remarks)
    yield from _method(session)
    yield from _probes(session)


def _memory(planned: Plan) -> Finding:
    found = f"at most {planned.memory_gb:.1f} GB"
    if planned.available_gb is None:
        return Finding("memory", "warning", f"{found}; what the device has cannot be told")
    found += f", the device has {planned.available_gb:.1f} GB"
    if planned.memory_gb > planned.available_gb:
        advice = "model.dtype=bfloat16 halves the weights; model.device_map spreads them; --dry-run itemises"
        return Finding("memory", "failed", found, advice)
    return Finding("memory", "ok", found)


def _place(out: Path, planned: Plan) -> Finding:
    if (out / "run.json").exists():
        return Finding(
            "run directory", "failed", f"{out} holds a run already", f"errata resume {out}, or another --out"
        )
    # Updates, and as much again for rows, checkpoints and the states that probes spill.
    return check_folder("run directory", out, round(2e9 * planned.disk_gb))


def _facts(session: Session, remarks: list[str]) -> Iterator[Finding]:
    stream = session.stream
    yield Finding("facts", "ok", f"{len(stream)} facts of {session.recipe.edits.dataset}")
    for remark in remarks:
        yield Finding("facts", "warning", remark)
    for what, wrong in (("too long for the model", _too_long), ("with words it has no token for", _unknown)):
        ids = [fact.id for fact in stream.facts if wrong(session.model, fact)]
        if ids:
            shown = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
            yield Finding("facts", "warning", f"{len(ids)} of {len(stream)} are {what}: {shown}", "look at them first")


def _too_long(model: EditableModel, fact: Fact) -> bool:
    return len(_ids(model, fact)) > model.positions


def _unknown(model: EditableModel, fact: Fact) -> bool:
    unknown = model.tokenizer.unk_token_id
    # GPT-2 names its end of text as the unknown token, and never gives it for one.
    return unknown is not None and unknown in _ids(model, fact)


def _ids(model: EditableModel, fact: Fact) -> list[int]:
    try:
        return [*model.encode([fact.text])[0], *model.encode_target(fact.target_new, fact.text, fact.join)]
    except EditDataError:
        return []  # said by the run as a failed edit, by its id


def _method(session: Session) -> Iterator[Finding]:
    name, settings = session.recipe.method.name, session.editor.settings
    layers = getattr(settings, "layers", None) or [x for x in [getattr(settings, "layer", None)] if x is not None]
    where = f", layers {', '.join(map(str, layers))}" if layers else ""
    yield Finding("method", "ok", f"{name}{where}")
    trained = getattr(settings, "checkpoint", None)
    if "checkpoint" in editor_class(name).Settings.model_fields and not (trained and Path(trained).exists()):
        advice = f"errata train {name} --model {session.model.name} --out DIR, then -o method.checkpoint=DIR"
        yield Finding("method", "failed", f"{name} must be trained first; checkpoint is {trained!r}", advice)
    text = getattr(settings, "statistics", None)
    if isinstance(text, TextSource):
        yield _tried("statistics' text", lambda: _first(text))


def _first(text: TextSource) -> str:
    if text.source == OWN:
        return text.check()
    if next(text.texts(), None) is None:
        raise StatisticsError(f"{text.source} holds no text. Name another: -o method.statistics.source=FILE")
    return text.check()


def _probes(session: Session) -> Iterator[Finding]:
    for probe in session.probes:
        yield _tried(f"probe {probe.name}", partial(_prepared, session, probe))
    yield _tried("files", lambda: f"{len(sources(session))} read and fingerprinted")


def _prepared(session: Session, probe: Probe) -> str:
    began = time.perf_counter()
    with reading(session, probe):
        probe.prepare(session.model, session.stream.facts)
    return f"ready in {time.perf_counter() - began:.1f} s"


def _tried(check: str, act: Callable[[], str]) -> Finding:
    try:
        return Finding(check, "ok", act())
    except ErrataError as e:
        return Finding(check, "failed", str(e))
