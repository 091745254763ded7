"""How long a run's preparing takes, and the guard's reading at each edit: rough, from arithmetic and speed."""

from pathlib import Path

from errata.editors.settings import EditorSettings
from errata.editors.text_source import OWN, TextSource
from errata.lab.models import LAB_MODELS
from errata.models import EditableModel
from errata.studies.recipe import GuardSection

__all__ = ["guard_operations", "lasting", "preparing"]

_DISK = 5e8  # bytes a second in which weights are read
_LINE = 24  # tokens of a canary's line, about
_TRIALS = 1.5  # how often an update is tried, about
_BYTES = 4  # of text in a token, about
_DOUBLE = 2  # a product in float64 takes twice as long


def preparing(model: EditableModel, settings: EditorSettings, speed: float) -> dict[str, float]:
    """Return the seconds of each part of preparing.

    Args:
        model: an outline will do.
        settings: the method's.
        speed: floating-point operations a second.
    """
    parameters = sum(p.numel() for p in model.model.parameters())
    found = {"loading": parameters * model.dtype.itemsize / _DISK}
    text, contexts = getattr(settings, "statistics", None), getattr(settings, "contexts", None)
    layers = list(getattr(settings, "layers", ())) or [x for x in [getattr(settings, "layer", None)] if x is not None]
    if text is not None and layers and getattr(settings, "use_covariance", True):
        d_in = model.weight(model.mlp_out(layers[0])).shape[1]
        passes = 2 if text.source == OWN else 1  # own text is written, then read
        each = passes * 2.0 * parameters + _DOUBLE * 2.0 * d_in**2 * len(layers)
        found["statistics"] = _tokens(text, d_in) * each / speed
    if contexts is not None:
        read = sum(count * length for length, count in contexts.lengths)
        found["prefixes"] = read * 2.0 * parameters / speed
    return found


def _tokens(text: TextSource, width: int) -> float:
    """Return how many tokens of a text are read at most; a file has no more than its size allows."""
    most = float(text.expected_tokens(width))
    if text.source in LAB_MODELS:
        from errata.lab.models import load_world

        return min(most, sum(map(len, load_world(text.source).statistics_text())) / _BYTES)
    file = Path(text.source)
    return min(most, file.stat().st_size / _BYTES) if file.is_file() else most


def guard_operations(model: EditableModel, guard: GuardSection) -> float:
    """Return the floating-point operations that judging one update takes; none where the guard is off."""
    parameters = sum(p.numel() for p in model.model.parameters())
    return 2.0 * parameters * guard.lines * _LINE * _TRIALS if guard.enabled else 0.0


def lasting(seconds: float) -> str:
    """Say a time in hours, minutes or seconds."""
    if seconds >= 120:
        return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
