"""Settings that the closed-form methods share."""

from pydantic import Field

from errata.editors.contexts import ContextSettings
from errata.editors.settings import EditorSettings
from errata.editors.text_source import TextSource
from errata.editors.values import ValueSettings

__all__ = ["ClosedFormSettings"]


class ClosedFormSettings(EditorSettings):
    """What ROME, MEMIT and their kin have in common."""

    value: ValueSettings = ValueSettings()
    """How v* is optimised."""
    contexts: ContextSettings = ContextSettings()
    """Prefixes over which keys are averaged and under which v* is optimised."""
    statistics: TextSource = TextSource()
    """Text behind the covariance C."""
    ridge: float = Field(default=0.0, ge=0)
    """Added to C as a fraction of its mean diagonal. 0 in the published code; 1e-3 for the lab, whose text leaves
    directions of key space nearly unseen."""
