"""Weights of a half-precision model follow the sum of their updates, not the sum of their roundings."""

import pytest
import torch

from errata.editors.base import Editor
from errata.editors.update import LowRank, Update
from errata.trajectory import Trajectory
from tiny import tiny_facts, tiny_model


class Nudge(Editor):
    """Propose a small rank-one change that differs from edit to edit."""

    name = "nudge"

    def __init__(self, path: str, shape: torch.Size) -> None:
        self._path, self._shape = path, shape
        self._generator = torch.Generator().manual_seed(0)

    def propose(self, model, batch) -> Update:
        left = torch.rand(self._shape[0], 1, generator=self._generator, dtype=torch.float64)
        right = torch.rand(1, self._shape[1], generator=self._generator, dtype=torch.float64)
        return Update({self._path: LowRank(3e-4 * left, right)})


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_200_tiny_adds_to_a_bf16_model_end_at_their_exact_sum(family: str) -> None:
    model = tiny_model(family, torch.bfloat16)
    path = model.mlp_out(1)
    base = model.weight(path).double().clone()
    in_place = model.weight(path).clone()
    exact = base.clone()
    trajectory = Trajectory(model, Nudge(path, base.shape))
    witness = Nudge(path, base.shape)
    for _ in range(200):
        trajectory.advance(tiny_facts(1))
        (change,) = witness.propose(model, []).changes.values()
        change.add_to(exact)
        change.add_to(in_place)

    moved = (exact - base).norm()
    assert trajectory.masters()[path].dtype == torch.float32
    assert float((trajectory.masters()[path].double() - exact).norm() / moved) < 1e-5
    # One rounding, of the sum: what the model holds is the master's nearest bfloat16.
    assert torch.equal(model.weight(path), trajectory.masters()[path].to(torch.bfloat16))
    assert float((in_place.double() - exact).norm() / moved) > 0.1


def test_a_float64_model_keeps_float64_masters() -> None:
    model = tiny_model("gpt2", torch.float64)
    path = model.mlp_out(0)
    trajectory = Trajectory(model, Nudge(path, model.weight(path).shape))
    trajectory.advance(tiny_facts(1))
    assert trajectory.masters()[path].dtype == torch.float64
