"""Keep what enters the first block that edits change: below it nothing changes, whatever is asked and how often."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.models.editable import EditableModel
from errata.models.hooks import capture, with_hidden

__all__ = ["LowerStates", "repeated_above"]

_REPEATED = 2**28  # bytes of hidden states: a batch's rows, at all steps of its training


class LowerStates:
    """Remember, for every token row once read, the hidden states that enter block `layer`.

    While they are `lent`, forward passes over rows begin at that block. On a CPU every row is read by itself, so that
    its states depend on nothing else: not on what was asked with it, nor on what was kept. A run that has been resumed,
    or whose budgets are others, gives the same bits. Products of a row's few tokens are slower than those of many rows,
    but only below that block, and only once for every row that the budgets hold.

    Args:
        model: the model; read only.
        memory: bytes of hidden states in memory; what comes later goes to a temporary file.
        disk: bytes in that file; what comes later still is read anew each time.
        folder: for that file; the system's own for temporary files when empty.
    """

    def __init__(self, model: EditableModel, memory: int, disk: int, folder: Path | None = None) -> None:
        self._model = model
        self._memory, self._disk = memory, disk
        # Nameless: it goes with the process, however that ends.
        self._file = TemporaryFile(prefix="errata-", buffering=0, dir=folder)  # noqa: SIM115
        self.layer = 0
        """The block that the kept states enter."""
        self._forget()

    def _forget(self) -> None:
        self._held: dict[bytes, Tensor] = {}
        self._places: dict[bytes, int] = {}
        self.in_memory = 0
        """Bytes of states in memory."""
        self.on_disk = 0
        """Bytes of states in the temporary file."""
        self._shape: Any = None
        self._full = False
        self._file.truncate(0)

    def close(self) -> None:
        """Forget everything and remove the file."""
        self._forget()
        self._file.close()

    @contextmanager
    def lent(self, layer: int) -> Iterator[None]:
        """Let forward passes over token rows begin at a block, inside the `with` block.

        Args:
            layer: the lowest block that may have changed; when it is another than before, what was kept is forgotten.
                With 0 nothing is certain, and passes begin at the embeddings.
        """
        if layer != self.layer:
            self._forget()
            self.layer = layer
        earlier, self._model.begun = self._model.begun, self._begun if layer else None
        try:
            yield
        finally:
            self._model.begun = earlier

    @contextmanager
    def _begun(self, rows: Sequence[Sequence[int]]) -> Iterator[None]:
        """Let a pass over these rows, padded on the right, take what enters block `layer` from here."""
        hidden = nn.utils.rnn.pad_sequence(self._states(rows), batch_first=True)
        output = with_hidden(self._shape, hidden)
        with _standing_in([self._model.block(i) for i in range(self.layer)], lambda *_, **__: output):
            yield

    def _states(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "pos d"]]:
        """Return the states of each row, read where they are not kept."""
        keys = [array("q", row).tobytes() for row in rows]
        asked = dict(zip(keys, rows, strict=True))
        found = {key: states for key, row in asked.items() if (states := self._kept(key, len(row))) is not None}
        missing = [key for key in asked if key not in found]
        together = 1 if self._model.device.type == "cpu" else max(1, len(missing))
        for first in range(0, len(missing), together):
            group = missing[first : first + together]
            for key, states in zip(group, self._read([asked[key] for key in group]), strict=True):
                found[key] = states[: len(asked[key])]
                self._keep(key, found[key])
        return [found[key] for key in keys]

    @torch.no_grad()
    def _read(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "row pos d"]:
        tokens = self._model.pad(rows)
        path = self._model.block_path(self.layer - 1)
        with capture(self._model.model, [path]) as seen:
            self._model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False)
        self._shape = with_hidden(seen[path].whole, torch.empty(0))
        return seen[path].output

    def _kept(self, key: bytes, length: int) -> Float[Tensor, "pos d"] | None:
        if key in self._held:
            return self._held[key].to(self._model.device)
        if key not in self._places:
            return None
        shape = (length, self._model.hidden_size)
        states = torch.empty(shape, dtype=self._model.dtype)
        self._file.seek(self._places[key])
        self._file.readinto(states.view(torch.uint8).numpy().data)
        return states.to(self._model.device)

    def _keep(self, key: bytes, states: Float[Tensor, "pos d"]) -> None:
        states = states.to("cpu", copy=True)
        if self.in_memory + states.nbytes <= self._memory:
            self._held[key] = states
            self.in_memory += states.nbytes
        elif not self._full and self.on_disk + states.nbytes <= self._disk:
            self._file.seek(self.on_disk)
            try:
                written = self._file.write(states.view(torch.uint8).numpy().data)
            except OSError:
                written = 0
            if written == states.nbytes:
                self._places[key] = self.on_disk
                self.on_disk += states.nbytes
            else:
                self._full = True  # the disk is; what has been written is given back when all is forgotten


@contextmanager
def repeated_above(model: EditableModel, layer: int) -> Iterator[None]:
    """Let repeated passes over the same token rows begin at a block, inside the `with` block.

    For training that changes nothing below: there every step would compute the same again.

    Args:
        model: the model.
        layer: the lowest block in which anything is trained.
    """
    states = LowerStates(model, _REPEATED, disk=0)
    try:
        with states.lent(layer):
            yield
    finally:
        states.close()


@contextmanager
def _standing_in(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Let something else answer for modules inside the block; their hooks stay."""
    # An instance may have a forward of its own already: accelerate gives it one.
    own = [vars(module).get("forward") for module in modules]
    for module in modules:
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            if before is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = before
