"""One finding of the doctor."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "State", "readable"]

State = Literal["ok", "absent", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """Say what was looked at, what was found, and what to do about it.

    Args:
        check: what was looked at.
        state: "ok"; "absent": not there, and not needed by what was asked for; "warning": a run would start, but may
            not give what is expected; "failed": a run would end with an error.
        found: in words.
        advice: what to do; empty for nothing.
    """

    check: str
    state: State
    found: str
    advice: str = ""


def readable(size: float) -> str:
    """Return a number of bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
