"""What a recipe's section `guard` stands for: further settings of the method, and the watch over a canary."""

from collections.abc import Callable

from pydantic import ValidationError

from errata.editors.base import Editor
from errata.editors.gentler import gentler
from errata.editors.ladder import Ladder
from errata.editors.registry import merge
from errata.editors.settings import EditorSettings
from errata.edits import EditStream
from errata.errors import ConfigError
from errata.models import EditableModel
from errata.probes.canary import LineCanary, canary_lines
from errata.studies.recipe import GuardSection, Recipe
from errata.trajectory import Guard, Limits, Watch
from errata.validation import explain

__all__ = ["guard_of", "limits_of", "watch_over", "with_alternatives", "with_retry"]


def with_retry(guard: GuardSection, settings: EditorSettings) -> GuardSection:
    """Return the section with the settings to be tried written out."""
    if not guard.enabled or guard.retry != "auto":
        return guard
    return guard.model_copy(update={"retry": tuple(gentler(settings))})


def with_alternatives(editor: Editor, guard: GuardSection) -> Editor:
    """Return the editor together with those that have the section's further settings; alone where there are none."""
    if not guard.enabled or not guard.retry or guard.retry == "auto":
        return editor
    own, Settings = editor.settings.model_dump(), type(editor).Settings
    rungs = [editor]
    for number, changes in enumerate(guard.retry, 1):
        try:
            rungs.append(type(editor)(Settings.model_validate(merge(own, changes))))
        except ValidationError as e:
            raise ConfigError(explain(e, Settings, f"guard.retry, number {number}")) from e
    return Ladder(rungs)


def guard_of(recipe: Recipe) -> Guard:
    """Return the judge of sizes."""
    section = recipe.guard
    return Guard(policy=recipe.run.on_disabled, spike=section.spike, warm_up=section.warm_up)


def limits_of(guard: GuardSection) -> Limits:
    """Return what the section allows."""
    fields = ("budget", "kept", "perplexity", "pace", "horizon", "learnt", "condition", "damp")
    return Limits(**{name: getattr(guard, name) for name in fields})


def watch_over(
    model: EditableModel,
    guard: GuardSection,
    stream: EditStream,
    seed: int,
    tell: Callable[[str], None] = lambda message: None,
) -> Watch | None:
    """Read the canary on the unedited model; None where the guard is off."""
    if not guard.enabled:
        return None
    with model.form("raw"):
        lines = canary_lines(model, guard.source, guard.lines, stream.facts, seed, tell)
    return Watch(limits_of(guard), LineCanary(model, lines), len(stream))
