"""Quicker kernels for what blocks compute again and again on a few rows: the same equations, equal up to rounding."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

__all__ = ["Kernels", "filled", "kernels_for", "packed_bytes", "running"]

Kernels = dict[nn.Module, Callable[[Tensor], Tensor]]

_PACKED_ROWS = 256  # by measurement: with more rows ordinary products are as quick
_ROWS_TOGETHER, _FEW_ROWS = 16, 2
_PACKED_BYTES = 2**30  # of copies; a model too large for that is not packed


def kernels_for(blocks: Sequence[nn.Module], rows: int | None, *, back: bool = True) -> Kernels:
    """Return by what modules of the blocks are to be computed while their parameters stay as they are.

    GPT-2's form of GELU is one kernel in place of eight. On a processor, float32 matrices are laid out once as oneDNN
    multiplies by them, forward and back: products with some tens of rows take half to two thirds of the time.

    Args:
        blocks: of the model.
        rows: how many go through them at a time; None where that is for a few times only, and packing would not pay.
        back: whether gradients are asked for.
    """
    modules = [module for block in blocks for module in block.modules()]
    quick: Kernels = {}
    for module in modules:
        if isinstance(module, NewGELUActivation):
            quick[module] = partial(torch.nn.functional.gelu, approximate="tanh")
    if rows is not None and rows <= _PACKED_ROWS and packed_bytes(blocks, back=back) and _packs():
        quick |= {module: _Packed(module, rows, back) for module in modules if _packable(module)}
    return quick


def packed_bytes(blocks: Sequence[nn.Module], *, back: bool = True) -> int:
    """Return what the packed matrices of the blocks take on a processor, at most; 0 where that is too much."""
    matrices = [weight for block in blocks for module in block.modules() if (weight := _matrix(module)) is not None]
    taken = sum((1 + back) * weight.numel() * weight.itemsize for weight in matrices)
    return taken if taken <= _PACKED_BYTES else 0


@contextmanager
def running(kernels: Kernels) -> Iterator[None]:
    """Compute modules by their kernels; hooks on them run as before.

    One thread at a time: blocks that overlap without being nested would leave a kernel behind.
    """
    before = {module: vars(module).get("forward") for module in kernels}
    try:
        for module, kernel in kernels.items():
            module.forward = kernel
        yield
    finally:
        for module, own in before.items():
            if own is None:
                vars(module).pop("forward", None)
            else:
                module.forward = own


def filled(rows: Float[Tensor, "n d"]) -> Float[Tensor, "filled d"]:
    """Add rows of zeros up to a multiple of 16 before a product with a large vocabulary.

    By measurement a processor multiplies 13 rows by 262,144 columns in more than twice the time of 16.
    """
    lacking = -len(rows) % _ROWS_TOGETHER
    if rows.device.type != "cpu" or len(rows) <= _FEW_ROWS or not lacking:
        return rows
    return torch.nn.functional.pad(rows, (0, 0, 0, lacking))


def _packs() -> bool:
    """Return whether this build of torch has oneDNN's products."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


def _matrix(module: Any) -> Tensor | None:
    """Return the float32 matrix by which a module multiplies, if it does nothing else."""
    linear = type(module) in (nn.Linear, Conv1D) and module.weight.dtype == torch.float32
    return module.weight if linear else None


def _packable(module: Any) -> bool:
    """Say whether a module multiplies by a constant matrix in a processor's memory, by its own forward."""
    weight = _matrix(module)
    if weight is None or "forward" in vars(module):
        return False
    plain = type(weight) in (nn.Parameter, Tensor) and not weight.requires_grad
    return plain and weight.device.type == "cpu"


class _Packed:
    """The product with a linear module's matrix, and its gradient for what it is given."""

    def __init__(self, module: Any, rows: int, back: bool) -> None:
        across = module.weight.detach()
        across = across.T if isinstance(module, Conv1D) else across
        pack = torch.ops.mkldnn._reorder_linear_weight
        self._forth: Tensor = pack(across, rows)
        self._back: Tensor | None = pack(across.T, rows) if back else None
        self._bias: Tensor | None = module.bias

    def __call__(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        if self._back is None:
            return self.forth(x)
        return _Product.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def forth(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return torch.ops.mkldnn._linear_pointwise(x, self._forth, self._bias, "none", [], "")  # type: ignore[no-any-return]

    def back(self, gradient: Float[Tensor, "... out"]) -> Float[Tensor, "... in"]:
        return torch.ops.mkldnn._linear_pointwise(gradient, self._back, None, "none", [], "")  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """x Wᵀ + b; the gradient for x alone, since W and b are constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: _Packed) -> Tensor:
        ctx.matrix = matrix
        return matrix.forth(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.back(gradients[0].contiguous()), None
