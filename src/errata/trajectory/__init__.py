"""The only place where weights change."""

from errata.editors.update import Change, Dense, LowRank, Update, overlay
from errata.trajectory.guard import Guard
from errata.trajectory.journal import DiskJournal, Entry, Journal
from errata.trajectory.trajectory import Trajectory

__all__ = [
    "Change",
    "Dense",
    "DiskJournal",
    "Entry",
    "Guard",
    "Journal",
    "LowRank",
    "Trajectory",
    "Update",
    "overlay",
]
