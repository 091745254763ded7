"""Kernels of blocks: what plain modules compute, and only where they may stand for them."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from errata.models import kernels
from errata.models.kernels import kernels_for, packed_bytes, running
from tiny import FAMILIES, tiny_model


def block(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    made = nn.Sequential(nn.Linear(24, 40), Conv1D(24, 40), nn.Linear(24, 24, bias=False)).to(dtype)
    for parameter in made.parameters():
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (2, 5, 24)])
def test_packed_products_and_their_gradients_are_those_of_the_modules(shape) -> None:
    made, x = block(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    quick = kernels_for([made], 7)
    assert list(quick) == list(made)
    weights = torch.randn(24, generator=torch.Generator().manual_seed(2))

    def asked() -> tuple[torch.Tensor, torch.Tensor]:
        given = x.clone().requires_grad_()
        out = made(given)
        (gradient,) = torch.autograd.grad((out * weights).sum(), given)
        return out.detach(), gradient

    plain = asked()
    with running(quick):
        packed = asked()
    again = asked()
    for a, b, c in zip(plain, packed, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-4)  # float32's rounding of sums of 40 terms of some tens
        assert torch.equal(a, c)  # the modules compute by themselves again


def test_what_cannot_be_packed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not kernels_for([block()], None)
    assert not kernels_for([block()], 257)
    assert not kernels_for([block(torch.float64)], 7)
    learning = block()
    learning[0].weight.requires_grad_(True)
    assert list(kernels_for([learning], 7)) == [learning[1], learning[2]]
    moved = block()
    moved[1].forward = moved[1].forward  # somebody else's forward, as accelerate puts one on modules
    assert list(kernels_for([moved], 7)) == [moved[0], moved[2]]
    assert packed_bytes([block()]) == 2 * 4 * (24 * 40 * 2 + 24 * 24)
    monkeypatch.setattr(kernels, "_PACKED_BYTES", 2 * 4 * 24 * 40)
    assert not kernels_for([block()], 7)
    assert packed_bytes([block()]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_run_by_its_kernels_says_the_same(family: str) -> None:
    model = tiny_model(family)
    blocks = [model.block(i) for i in range(model.n_layers)]
    ids = torch.tensor([[5, 6, 7, 8]])
    wanted = model.model(input_ids=ids).logits
    with running(kernels_for(blocks, 4)):
        torch.testing.assert_close(model.model(input_ids=ids).logits, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.model(input_ids=ids).logits, wanted)


def test_gelu_in_one_kernel_is_gpt2s_in_float64() -> None:
    model = tiny_model("gpt2", torch.float64)
    quick = kernels_for([model.block(0)], 7)
    ((module, kernel),) = quick.items()
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(kernel(x), module(x), rtol=1e-13, atol=1e-15)
