"""Models of any declared family, loaded and addressed in one way."""

from errata.models.answering import check_answers
from errata.models.editable import EditableModel
from errata.models.families import FAMILIES, family_of
from errata.models.family import ModelFamily
from errata.models.identity import Identity, deviation, identity_of
from errata.models.loading import load, outline

__all__ = [
    "FAMILIES",
    "EditableModel",
    "Identity",
    "ModelFamily",
    "check_answers",
    "deviation",
    "family_of",
    "identity_of",
    "load",
    "outline",
]
