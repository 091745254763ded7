"""The only place where weights change."""

from errata.editors.update import Change, Dense, LowRank, Update, overlay
from errata.trajectory.deciding import Watch
from errata.trajectory.guard import Guard
from errata.trajectory.journal import DiskJournal, Entry, Journal
from errata.trajectory.limits import Limits
from errata.trajectory.trajectory import Trajectory

__all__ = [
    "Change",
    "Dense",
    "DiskJournal",
    "Entry",
    "Guard",
    "Journal",
    "Limits",
    "LowRank",
    "Trajectory",
    "Update",
    "Watch",
    "overlay",
]
