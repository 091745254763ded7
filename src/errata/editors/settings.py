"""The base of all settings: frozen, with unknown keys refused."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

__all__ = ["EditorSettings"]


class EditorSettings(BaseModel):
    """Settings of a method; every field states its meaning, the paper's symbol and where its default comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")

    typical_depth: ClassVar[float] = 17 / 47
    """Where in the depth of a model its `layer`, or the last of its `layers`, lies in the published settings; that of
    ROME and MEMIT for GPT2-XL, 0 being the first block and 1 the last."""
    typical_layers: ClassVar[int] = 5
    """How many `layers` the published settings have; as many as MEMIT's for GPT2-XL."""
    unpublished: ClassVar[Mapping[str, Any]] = {}
    """What is laid over the defaults for a model that has no published settings of the method: defaults are those
    published for one model, and some of them fit no other."""
    displaces: ClassVar[Mapping[str, str]] = {}
    """Settings that a user gives in place of another, which is then null unless it is given as well."""
