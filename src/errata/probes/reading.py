"""Read token rows together, whatever their lengths, and go on token by token."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from errata.models import EditableModel
from errata.models.head import head_at, logits_at
from errata.models.hooks import cache_to
from errata.models.kernels import Kernels, running
from errata.models.prompts import NO_PROMPT

__all__ = ["WORTH_SHARING", "Cached", "Common", "Reading", "Whole"]

WORTH_SHARING = 16
"""Tokens in common; below, an extra forward pass costs more than it saves."""


class Reading(Protocol):
    """Rows that are being read."""

    def after(self, last: Int[Tensor, " row"] | None) -> Float[Tensor, "row vocab"]:
        """Return what each row predicts behind its last token: the prompt's at first, then one more each time."""
        ...


class Common:
    """The beginning that all rows have, read once: the shots of a few-shot task are the same for every item."""

    def __init__(self, model: EditableModel, rows: Sequence[Sequence[int]]) -> None:
        least, greatest = min(map(list, rows)), max(map(list, rows))  # what these have in common, all have
        shorter = min(map(len, rows)) - 1
        length = next((i for i in range(shorter) if least[i] != greatest[i]), shorter)
        worth = len(rows) > 1 and length >= WORTH_SHARING and not model.reads_whole
        self.length = length if worth else 0
        self._cache = DynamicCache()  # without a configuration no layer forgets what its window has left behind
        if worth:
            with model.reading([NO_PROMPT]):
                model.model(
                    input_ids=torch.tensor([least[:length]], device=model.device),
                    **cache_to(model.model, self._cache),
                    use_cache=True,
                    logits_to_keep=1,
                )

    def repeated(self, rows: int) -> "_RoomyCache":
        """Return the keys and values of so many rows that begin in this way."""
        cache = _RoomyCache()
        layers: list[Any] = list(self._cache.layers)
        for i, layer in enumerate(layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), i)
        return cache


class _RoomyCache(DynamicCache):
    """Attention keys and values with room for those to come: what is kept is not copied at every token."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def move(self, source: Int[Tensor, "row width"], real: Bool[Tensor, "row width"], room: int) -> None:
        """Move what is kept to other columns, and make room behind it.

        Args:
            source: for each column, the one whose content it takes.
            real: columns that hold a token; the others become 0, since a dead model's NaN survives a weight of 0.
            room: for how many tokens.
        """
        layers: list[Any] = list(self.layers)
        for layer in layers:
            moved = []
            for kept in (layer.keys, layer.values):
                rows, heads, width, size = kept.shape
                buffer = kept.new_empty(rows, heads, width + room, size)
                torch.take_along_dim(kept, source[:, None, :, None], dim=2, out=buffer[:, :, :width])
                buffer[:, :, :width].masked_fill_(~real[:, None, :, None], 0)
                moved.append(buffer)
            self._buffers.append((moved[0], moved[1]))
            layer.keys, layer.values = (buffer[:, :, :width] for buffer in moved)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of one layer, and return all."""
        if not self._buffers:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        layer: Any = self.layers[layer_idx]
        keys, values = self._buffers[layer_idx]
        begin = layer.keys.shape[2]
        end = begin + key_states.shape[2]
        keys[:, :, begin:end], values[:, :, begin:end] = key_states, value_states
        layer.keys, layer.values = keys[:, :, :end], values[:, :, :end]
        return layer.keys, layer.values


class Cached:
    """Read rows to their ends, then token by token behind the attention keys and values of what has been read."""

    def __init__(
        self,
        model: EditableModel,
        rows: Sequence[Sequence[int]],
        common: Common,
        new_tokens: int,
        kernels: Kernels | None = None,
    ) -> None:
        self._model, self._room, self._kernels = model, new_tokens, kernels or {}
        self._tails = [row[common.length :] for row in rows]
        self._cache = common.repeated(len(rows))
        lengths = torch.tensor([len(row) for row in rows], device=model.device)
        self._positions = lengths[:, None]
        self._width = int(lengths.max())
        self._mask = torch.arange(self._width, device=model.device) >= self._width - lengths[:, None]

    def after(self, last: Int[Tensor, " row"] | None) -> Float[Tensor, "row vocab"]:
        """Return what each row predicts behind the token last added to it."""
        return self._prompts() if last is None else self._next(last)

    def _prompts(self) -> Float[Tensor, "row vocab"]:
        ends = [len(tail) - 1 for tail in self._tails]
        ids = self._model.pad(self._tails).input_ids
        # Right padding, seen like all else: no real token sees what stands to its right.
        seen = torch.ones(len(ids), self._cache.get_seq_length() + ids.shape[1], dtype=torch.long, device=ids.device)
        with self._model.reading(ends), head_at(self._model, list(enumerate(ends))):
            logits: Tensor = self._model.model(
                input_ids=ids, attention_mask=seen, **cache_to(self._model.model, self._cache), use_cache=True
            ).logits[0]
        # Every row is moved to end where its continuation begins: sliding windows count columns, not positions.
        columns = torch.arange(self._width, device=logits.device)
        self._cache.move((columns - (self._width - self._positions)) % self._width, self._mask, self._room)
        return logits

    def _next(self, last: Int[Tensor, " row"]) -> Float[Tensor, "row vocab"]:
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        with self._model.reading([NO_PROMPT] * len(last)), running(self._kernels):
            logits: Tensor = self._model.model(
                input_ids=last[:, None],
                attention_mask=self._mask.long(),
                # A row that is full is read on with the others, to no effect.
                position_ids=self._positions.clamp(max=self._model.positions - 1),
                **cache_to(self._model.model, self._cache),
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        self._positions = self._positions + 1
        return logits


class Whole:
    """Read rows whole each time, for methods that look at a prompt as a whole."""

    def __init__(self, model: EditableModel, rows: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._rows = [list(row) for row in rows]
        self._ends = [len(row) - 1 for row in rows]

    def after(self, last: Int[Tensor, " row"] | None) -> Float[Tensor, "row vocab"]:
        """Return what each row predicts behind the token last added to it."""
        if last is not None:
            for row, token in zip(self._rows, last.tolist(), strict=True):
                row += [token] * (len(row) < self._model.positions)
        with self._model.reading(self._ends):
            return logits_at(self._model, self._rows, [(i, len(row) - 1) for i, row in enumerate(self._rows)])
