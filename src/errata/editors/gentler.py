"""Settings that harm a model less than a method's own, for a guard to turn to."""

from typing import Any

from errata.editors.closed_form import ClosedFormSettings
from errata.editors.settings import EditorSettings

__all__ = ["gentler"]

_VALUE = {
    "lr": 0.2,
    "weight_decay": 0.0,
    "kl_factor": 0.5,
    "kl_position": "end",
    "stop": "most-probable",
    "steps_after": 6,
}
"""v\\* no further from v than the fact needs, and the essence read at the prompt's end."""


def gentler(settings: EditorSettings) -> list[dict[str, Any]]:
    """Return what to lay over a method's settings where edits cost too much, in turn; nothing for other methods.

    A closed form keeps its layers. Its key is that of the bare prompt, so that ROME's two keys are one (2403.07175);
    keys are whitened by C where the method can; and v* is optimised as `_VALUE` says. What this saves is measured on
    the lab alone (docs/results/guard.md).

    Args:
        settings: the method's own, resolved.
    """
    if not isinstance(settings, ClosedFormSettings):
        return []
    value = {**_VALUE, "steps": max(40, settings.value.steps)}
    whitened = {"use_covariance": True} if "use_covariance" in type(settings).model_fields else {}
    return [{**whitened, "value": value, "contexts": {"lengths": []}}]
