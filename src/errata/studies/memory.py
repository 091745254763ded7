"""What a run holds in memory, reckoned from a model's configuration alone."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from errata.editors.base import Editor
from errata.editors.closed_form import ClosedForm, ClosedFormSettings
from errata.editors.methods.alphaedit import AlphaEdit
from errata.editors.methods.lyaplock import LyapLock
from errata.editors.methods.memit_history import MEMITHistory
from errata.editors.value_settings import FAST_PREFIXES
from errata.editors.values import bytes_a_token, tokens_together
from errata.models import EditableModel
from errata.models.head import LOGITS
from errata.models.kernels import packed_bytes
from errata.probes.generation import kept_bytes
from errata.probes.scoring import token_budget
from errata.studies.unchanged import KEPT_SHARE

__all__ = ["MemoryItem", "available_on", "memory_plan", "peak", "shown"]

_TOKENS = 16  # of a prompt from its subject on, about
# Vectors of width d, and of the feed-forward's inner width, that one block has at one time where nothing is kept.
_PASSING = (3, 3)
_PROCESS = 500_000_000  # Python and its libraries; on a GPU, the driver's context


@dataclass(frozen=True)
class _Held:
    """What a method holds for each layer, in float64.

    Args:
        what: in words.
        squares: of its matrices of keys against keys, width × width.
        tall: of its matrices of values against keys, d × width.
        preparing: how many squares more one layer needs while it is prepared.
        again: how many squares more it needs when a matrix is factored anew.
    """

    what: str
    squares: float
    tall: float
    preparing: int
    again: int


# Keys beside a factored matrix, at most width/8 of them, are there twice: as they are and solved with.
_HELD: tuple[tuple[type[ClosedForm], _Held], ...] = (
    (AlphaEdit, _Held("null space, factor and past keys", 2.25, 0, 4, 2)),
    (LyapLock, _Held("λC, factor, past keys and sums of them, of their values and W₀", 3.25, 3.5, 2, 3)),
    (MEMITHistory, _Held("factor, C and past keys", 1.75, 0, 2, 2)),
    (ClosedForm, _Held("factor", 1.0, 0, 2, 0)),
)


When = Literal["throughout", "preparing", "editing", "a moment"]


@dataclass(frozen=True)
class MemoryItem:
    """One thing that takes memory.

    Args:
        what: what it is, and how many of what shape.
        device: where it is.
        bytes: how much; an upper bound where it varies.
        when: how long: throughout, while preparing, from the first edit on, or for a moment of an edit or a probe.
    """

    what: str
    device: str
    bytes: int
    when: When = "throughout"


def memory_plan(model: EditableModel, editor: Editor, batch_size: int, device: str) -> list[MemoryItem]:
    """Itemise what a run of edits holds, the fixed parts exactly, activations by an upper bound.

    Args:
        model: the model, or its outline without weights (`errata.models.outline`).
        editor: the method with its settings; it need not be prepared.
        batch_size: facts in one update.
        device: where the model is to be.
    """
    s = editor.settings
    layers: Sequence[int] = getattr(s, "layers", None) or [getattr(s, "layer", 0)]
    n = len(layers)
    rows, width = model.weight(model.mlp_out(layers[0])).shape
    weights = sum(p.numel() * p.element_size() for p in model.model.parameters())
    dtype = str(model.dtype).removeprefix("torch.")
    items = [
        MemoryItem("Python, torch and what they load", device, _PROCESS),
        MemoryItem(f"the model's weights, {dtype}", device, weights),
        MemoryItem("hidden states kept for probes", "cpu", int(KEPT_SHARE * weights)),
        _probing(model, width, device),
        _continuing(model, weights, device),
    ]
    if type(editor).attach is not Editor.attach:
        return items
    kept = max(4, model.dtype.itemsize)
    what = f"W₀ and W of {n} {rows:,} × {width:,}, float{8 * kept}"
    items.append(MemoryItem(what, device, 2 * kept * rows * width * n, "editing"))
    items.append(MemoryItem("one W in float64, for its norm", device, 8 * rows * width, "a moment"))
    if not isinstance(editor, ClosedForm):
        return items
    square, tall = 8 * width**2, 8 * rows * width
    if getattr(s, "use_covariance", True):
        held = next(held for cls, held in _HELD if isinstance(editor, cls))
        beside = f" and of {rows:,} × {width:,}" if held.tall else ""
        what = f"{held.what}: {n} of {width:,} × {width:,}{beside}, float64"
        items.append(MemoryItem(what, device, int(held.squares * square + held.tall * tall) * n))
        # C of all layers in float32, or the float64 that one layer needs beside its own.
        most = max(n * square // 2, held.preparing * square)
        items.append(MemoryItem("C before it is factored", device, most, "preparing"))
        if held.again:
            items.append(MemoryItem("one layer's matrix, factored anew", device, held.again * square, "a moment"))
    if isinstance(editor, LyapLock) or s.regularise:
        # One each, and the terms of the layer that is being solved for.
        what = f"whole updates of {n} W, float64"
        items.append(MemoryItem(what, device, (n + 3) * tall, "a moment"))
    return [*items, *_optimising(model, s, layers[-1], batch_size, device)]


def _optimising(
    model: EditableModel, s: ClosedFormSettings, layer: int, batch_size: int, device: str
) -> list[MemoryItem]:
    """Return what optimising v* takes: activations of as many facts as go together, and what the fast mode copies."""
    contexts = 1 + (FAST_PREFIXES if s.fast else sum(count for _, count in s.contexts.lengths))
    of_one = (contexts + 1) * _TOKENS  # the essence prompt stands beside them
    tokens = min(batch_size * of_one, max(of_one, tokens_together(model, layer, torch.device(device))))
    logits = tokens // _TOKENS * 3 * 4 * _vocabulary(model)
    above = model.n_layers - 1 - layer
    items = [(f"activations of {above} blocks while v* is optimised", tokens * bytes_a_token(model, layer) + logits)]
    blocks = [model.block(i) for i in range(layer + 1, model.n_layers)]
    if not s.fast and device == "cpu" and (packed := packed_bytes(blocks)):
        items = [(f"{items[0][0]}, and their matrices in oneDNN's layouts", items[0][1] + packed)]
    if s.fast and model.dtype == torch.float32:
        copied = sum(2 * p.numel() for block in blocks for p in block.parameters() if p.ndim == 2)
        items = [(f"{items[0][0]}, and their matrices in bfloat16", items[0][1] + copied)]
    return [MemoryItem(what, device, size, "a moment") for what, size in items]


def _probing(model: EditableModel, width: int, device: str) -> MemoryItem:
    """Return what a probe's largest forward pass takes: one block's activations and the logits of scored tokens."""
    tokens = token_budget(model, torch.device(device))
    logits = 2 * 4 * min(LOGITS, tokens * _vocabulary(model))
    inside = tokens * (_PASSING[0] * model.hidden_size + _PASSING[1] * width) * model.dtype.itemsize
    return MemoryItem(f"a probe's forward pass of {tokens:,} tokens", device, inside + logits, "a moment")


def _continuing(model: EditableModel, weights: int, device: str) -> MemoryItem:
    """Return what is kept of texts that are continued together, where a probe asks for any."""
    packed = packed_bytes([model.block(i) for i in range(model.n_layers)], back=False) if device == "cpu" else 0
    what = "attention keys and values of continued texts" + (", and matrices in oneDNN's layouts" if packed else "")
    return MemoryItem(what, device, kept_bytes(weights) + packed, "a moment")


def _vocabulary(model: EditableModel) -> int:
    return int(model.model.config.vocab_size)


def shown(items: Sequence[MemoryItem], available: int | None) -> str:
    """Return the plan as lines, with what it comes to at most and whether that is there.

    Args:
        items: the plan.
        available: bytes of the device; None where they are not known.
    """
    lines = []
    for i in items:
        when = "" if i.when == "throughout" else f" ({i.when})"
        where = "" if i.device == items[0].device else f", on {i.device}"
        lines.append(f"  {i.bytes / 1e9:8.2f} GB  {i.what}{when}{where}")
    most = peak(items)
    fits = "" if available is None else f", {'of' if most <= available else 'but it has'} {available / 1e9:.1f} GB"
    return "\n".join([*lines, f"  {most / 1e9:8.2f} GB  at most on {items[0].device}{fits}"])


def peak(items: Sequence[MemoryItem]) -> int:
    """Return what the model's device holds at most.

    That is while preparing, or while editing with the largest of what is there for a moment.
    """
    held = dict.fromkeys(get_args(When), 0)
    for item in items:
        if item.device != items[0].device:
            continue
        held[item.when] = max(held[item.when], item.bytes) if item.when == "a moment" else held[item.when] + item.bytes
    return held["throughout"] + max(held["preparing"], held["editing"] + held["a moment"])


def available_on(device: torch.device) -> int | None:
    """Return the bytes of memory of a device of this machine; None where that cannot be told."""
    if device.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
