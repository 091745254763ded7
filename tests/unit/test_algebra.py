"""Low-rank changes and solves equal their dense counterparts, for any shape."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.editors.solve import Factored
from errata.editors.statistics import SecondMoment
from errata.editors.update import Dense, LowRank, Update, overlay
from errata.errors import NumericalError
from tiny import tiny_model

sizes = st.integers(1, 12)
seeds = st.integers(0, 2**31)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, sizes, seeds, st.floats(-8, 8))
def test_a_low_rank_change_equals_its_matrix(out: int, rank: int, width: int, seed: int, exponent: float) -> None:
    change = LowRank(10**exponent * normal(out, rank, seed=seed), normal(rank, width, seed=seed + 1))
    matrix = Dense(change.left @ change.right)
    assert change.norm() == pytest.approx(matrix.norm(), rel=1e-9)
    x = normal(3, 2, width, seed=seed + 2)
    torch.testing.assert_close(change.apply(x), matrix.apply(x), rtol=1e-9, atol=1e-9 * 10**exponent)
    added = torch.zeros(out, width, dtype=torch.float64)
    change.add_to(added)
    torch.testing.assert_close(added, matrix.matrix, rtol=1e-9, atol=1e-9 * 10**exponent)


def test_norms_of_nothing_nan_and_cancelling_factors() -> None:
    assert LowRank(torch.zeros(3, 1), torch.ones(1, 2)).norm() == 0
    assert math.isnan(LowRank(torch.full((3, 1), math.nan), torch.ones(1, 2)).norm())
    assert math.isnan(Dense(torch.full((3, 1), math.nan)).norm())
    cancelling = LowRank(torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 3.0], [2.0, 3.0]]))
    assert cancelling.norm() == 0


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, seeds)
def test_solve_with_equals_a_dense_solve(d: int, n: int, seed: int) -> None:
    root = normal(d, d + 2, seed=seed)
    A, K = root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64), normal(d, n, seed=seed + 1)
    expected = torch.linalg.solve(A + K @ K.T, K)
    torch.testing.assert_close(Factored(A, "A").solve_with(K), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(Factored(A, "A").solve(K), torch.linalg.solve(A, K), rtol=1e-6, atol=1e-8)
    assert Factored(A, "A").condition <= float(torch.linalg.cond(A)) * (1 + 1e-9)


@pytest.mark.parametrize("bad", [-torch.eye(3), torch.full((3, 3), math.nan), torch.ones(3, 3)])
def test_a_matrix_that_cannot_be_factored_is_named_with_what_to_do(bad: torch.Tensor) -> None:
    with pytest.raises(NumericalError, match=r"the covariance of layer 7 \(3 × 3\).*set `ridge`"):
        Factored(bad, "the covariance of layer 7")


def test_a_ridge_is_a_fraction_of_the_mean_diagonal() -> None:
    C = torch.diag(torch.tensor([1.0, 3.0]))
    assert SecondMoment(C, 10).ridged(0.5).diagonal().tolist() == [2.0, 4.0]
    assert torch.equal(SecondMoment(C, 10).ridged(0.0), C.double())


def test_an_update_reads_what_it_writes_and_changes_precision_whole() -> None:
    low = LowRank(normal(4, 1, seed=0), normal(1, 3, seed=1))
    update = Update({"x.y": low, "x.z": Dense(normal(4, 3, seed=2))}, {"loss": 1.0}, {"x.y": normal(3, 1, seed=3)})
    again = Update.from_tensors(update.tensors())
    assert isinstance(again.changes["x.y"], LowRank)
    assert isinstance(again.changes["x.z"], Dense)
    assert again.norms() == update.norms()
    assert torch.equal(again.memory["x.y"], update.memory["x.y"])
    single = update.to(torch.float32)
    assert {t.dtype for t in single.tensors().values()} == {torch.float32}
    assert single.diagnostics == {"loss": 1.0}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_overlays_nest_and_end(family: str) -> None:
    model = tiny_model(family, torch.float64)
    path = model.mlp_out(1)
    out, width = model.weight(path).shape
    first, second = (LowRank(normal(out, 1, seed=s), normal(1, width, seed=s + 9)) for s in (1, 2))
    both = LowRank(torch.cat([first.left, second.left], 1), torch.cat([first.right, second.right]))
    ids = torch.tensor(model.encode(["Ada Abend was born in"]))

    def logits() -> torch.Tensor:
        with torch.no_grad():
            result: torch.Tensor = model.model(ids).logits
        return result

    plain = logits()
    with overlay(model, {path: both}):
        expected = logits()
    with overlay(model, {path: first}), overlay(model, {path: second}):
        torch.testing.assert_close(logits(), expected, rtol=0, atol=1e-10)
    assert torch.equal(logits(), plain)
    assert not torch.allclose(plain, expected)
