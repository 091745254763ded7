"""Random text prefixes under which keys are averaged and values optimised."""

from collections.abc import Sequence
from random import Random

import torch
from pydantic import Field
from transformers import DynamicCache

from errata.editors.settings import EditorSettings
from errata.errors import ModelError
from errata.models import EditableModel
from errata.models.hooks import cache_to

__all__ = ["ContextSettings", "sample_contexts"]


class ContextSettings(EditorSettings):
    """How prefixes are sampled from the unedited model."""

    lengths: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    """(tokens, how many prefixes) pairs. ROME: ((5, 10), (10, 10)), kmeng01/rome."""
    starts: tuple[str, ...] = ()
    """Words that prefixes begin with, in turn; empty: the beginning-of-text token. MEMIT: The, Therefore, ..."""
    top_k: int = Field(default=5, ge=1)
    """Sample among the k most probable tokens. 5 in kmeng01/rome."""


@torch.no_grad()
def sample_contexts(model: EditableModel, settings: ContextSettings, rng: Random) -> list[str]:
    """Sample prefixes and return them as templates "prefix. {}" for the subject's prompt.

    Braces in sampled text become spaces, so that a template has one `{}`. Prefixes of one length are sampled together,
    each with draws of its own: what is sampled does not depend on what goes with it.

    Raises:
        ModelError: when the model answers NaN.
    """
    among = min(settings.top_k, int(model.model.config.vocab_size))
    drawn = torch.Generator().manual_seed(rng.getrandbits(63))
    templates: list[str] = []
    for length, count in settings.lengths:
        words = [settings.starts[i % len(settings.starts)] if settings.starts else "" for i in range(count)]
        starts = [_start_ids(model, word) for word in words]
        generators = [_skipped(drawn, length, among) for _ in starts]
        rows: dict[int, list[int]] = {}
        for width in {len(start) for start in starts}:
            group = [i for i, start in enumerate(starts) if len(start) == width]
            found = _continued(model, [starts[i] for i in group], length, among, [generators[i] for i in group])
            rows |= dict(zip(group, found, strict=True))
        for i in range(count):
            text = str(model.tokenizer.decode(rows[i], skip_special_tokens=True)).strip()
            templates.append(text.replace("{", " ").replace("}", " ") + ". {}")
    return templates


def _skipped(generator: torch.Generator, draws: int, among: int) -> torch.Generator:
    """Return a generator that goes on here, and take the given one past so many draws."""
    own = torch.Generator()
    own.set_state(generator.get_state())
    for _ in range(draws):
        torch.multinomial(torch.ones(among, dtype=torch.float64), 1, generator=generator)
    return own


def _continued(
    model: EditableModel,
    starts: Sequence[list[int]],
    length: int,
    among: int,
    generators: Sequence[torch.Generator],
) -> list[list[int]]:
    """Return starts of equal length with so many sampled tokens behind each."""
    rows = [list(start) for start in starts]
    read = torch.tensor(rows, device=model.device)
    cache = DynamicCache()  # without a configuration no layer forgets what its window has left behind
    for _ in range(length):
        logits = model.model(input_ids=read, **cache_to(model.model, cache), use_cache=True, logits_to_keep=1).logits[
            :, -1
        ]
        top = torch.topk(logits.double().cpu(), among)
        if bool(top.values.isnan().any()):
            raise ModelError(f"the unedited {model.name} already answers NaN, so it can be given no context.")
        shares = torch.softmax(top.values, -1)
        drawn = [torch.multinomial(row, 1, generator=g) for row, g in zip(shares, generators, strict=True)]
        read = top.indices.gather(1, torch.stack(drawn)).to(model.device)
        for row, (token,) in zip(rows, read.tolist(), strict=True):
            row.append(token)
    return rows


def _start_ids(model: EditableModel, word: str) -> list[int]:
    if word:
        with model.bare():
            return model.encode([word])[0]
    tokenizer = model.tokenizer
    beginning = tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else tokenizer.eos_token_id
    return [beginning if isinstance(beginning, int) else 0]
