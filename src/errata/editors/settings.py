"""The base of all settings: frozen, with unknown keys refused."""

from pydantic import BaseModel, ConfigDict

__all__ = ["EditorSettings"]


class EditorSettings(BaseModel):
    """Settings of a method; every field states its meaning, the paper's symbol and where its default comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")
