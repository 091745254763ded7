"""Facts, where they come from, and the order in which they are edited."""

from errata.edits.fact import Fact
from errata.edits.stream import EditStream

__all__ = ["EditStream", "Fact"]
