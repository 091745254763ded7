"""Perplexity on held-out text: is it still a language model?"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field

from errata.edits import Fact
from errata.errors import ConfigError
from errata.lab.models import LAB_MODELS, load_world
from errata.models import EditableModel
from errata.probes.base import ProbeSettings, View
from errata.probes.records import open_source
from errata.probes.rows import Row
from errata.probes.scoring import score_tokens

__all__ = ["Perplexity", "PerplexitySettings"]


class PerplexitySettings(ProbeSettings):
    """Settings of the perplexity probe."""

    every: int = Field(default=20, ge=1)
    """Measure whenever this many further edits have been made, and at the end."""
    source: str = "auto"
    """The text: "auto" takes the lab world's held-out lines for a lab model (nothing for other models); else a text
    file, a text a line."""
    lines: int = Field(default=100, ge=1)
    """How many lines at most."""
    max_tokens: int = Field(default=512, ge=2)
    """Lines are cut to this many tokens."""


class Perplexity:
    """Measure exp of the mean negative log-likelihood per predicted token, over all lines together: one row a step.

    A line's first token is not predicted unless the tokenizer puts a beginning-of-sequence token before it. The row's
    `logp_true` is the mean log-likelihood itself, which stays readable when its exponential does not.
    """

    name: ClassVar[str] = "perplexity"
    Settings: ClassVar[type[ProbeSettings]] = PerplexitySettings

    def __init__(self, settings: PerplexitySettings) -> None:
        self.settings = settings
        self._rows: list[tuple[list[int], int]] = []

    def prepare(self, model: EditableModel, facts: Sequence[Fact]) -> None:
        """Read and encode the text.

        Raises:
            ConfigError: when the text has no line of two tokens.
        """
        if self.settings.source != "auto":
            lines = [line for line in open_source(self.settings.source, self.name).split("\n") if line.strip()]
        elif model.name in LAB_MODELS:
            lines = load_world(model.name).heldout_text(self.settings.lines)
        else:
            return
        limit = min(self.settings.max_tokens, model.positions)
        encoded = model.encode(lines[: self.settings.lines]) if lines else []
        self._rows = [(ids[:limit], 1) for ids in encoded if len(ids) > 1]
        if not self._rows:
            raise ConfigError(f"probes (perplexity): {self.settings.source} has no line of at least two tokens.")

    def measure(self, view: View) -> Iterator[Row]:
        """Yield the row of one step."""
        if self._rows:
            scores = score_tokens(view.model, self._rows)
            mean = torch.cat([s.logps for s in scores]).double().mean()
            yield Row(view.step, "perplexity", float(torch.exp(-mean)), logp_true=float(mean))
