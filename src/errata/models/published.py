"""Architectures known without their files: those of the papers' own models."""

from pathlib import Path
from typing import Any

import yaml

__all__ = ["published_config"]


def published_config(name: str) -> dict[str, Any] | None:
    """Return the published configuration of a model by its hub name; None for a model that is not among them.

    Args:
        name: such as "gpt2-xl"; upper and lower case are the same.
    """
    for record in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")):
        if name.lower() in record["names"]:
            return dict(record["config"])
    return None
