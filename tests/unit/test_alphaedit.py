"""AlphaEdit equals its equation written out with the projector, and past keys cost nothing in accuracy."""

from random import Random

import pytest
import torch
from test_closed_form import FACTS, VALUE, Given, covariance, distance, matrix, mean_key
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.history import PastKeys
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.solve import FactoredInPlace, above, null_space
from errata.errors import NumericalError
from errata.models import EditableModel
from errata.trajectory import Trajectory
from tiny import tiny_model

families = pytest.mark.parametrize("family", ["gpt2", "llama"])
SETTINGS = {
    "layers": (1,),
    "value": VALUE,
    "contexts": {"lengths": ((4, 3),)},
    "threshold": 0.5,
    "threshold_unit": "mean",
    "identity_weight": 0.3,
}


def prepared(model: EditableModel, **chosen) -> Editor:
    editor = editor_class("alphaedit")(resolve_settings("alphaedit", model, {"subjects": 0.0} | SETTINGS | chosen))
    editor.prepare(model, Given(), Random(0))
    return editor


def keys_of(model: EditableModel, path: str, editor: Editor, batch) -> Tensor:
    templates = editor.state_dict()["templates"]
    pairs = [(mean_key(model, path, f, ["{}"]), mean_key(model, path, f, templates)) for f in batch]
    return torch.stack([(bare + prefixed) / 2 for bare, prefixed in pairs], 1)


@families
def test_alphaedit_equals_its_equation_over_a_sequence(family: str) -> None:
    model = tiny_model(family, torch.float64)
    editor = prepared(model)
    path = model.mlp_out(1)
    C = covariance(model, 1)
    values, vectors = torch.linalg.eigh(C)
    free = vectors[:, values < 0.5 * C.diagonal().mean()]
    assert 0 < free.shape[1] < len(C)
    P = free @ free.T
    trajectory = Trajectory(model, editor)
    past = torch.zeros_like(C)
    for batch in (FACTS[:3], FACTS[3:5], FACTS[5:6]):
        K = keys_of(model, path, editor, batch)
        update = trajectory.propose(batch)
        R = update.changes[path].left
        system = past @ P + K @ K.T @ P + 0.3 * torch.eye(len(C), dtype=C.dtype)
        expected = R @ K.T @ P @ torch.linalg.inv(system)
        found = matrix(update, path)
        assert distance(found, expected) < 1e-8
        # What text uses stays as it was: W k does not move for k in the span of C's large directions.
        assert float((found @ vectors[:, values >= 0.5 * C.diagonal().mean()]).norm()) < 1e-10 * float(found.norm())
        trajectory.advance(batch)
        # As the published code does, which finds the same keys.
        again = keys_of(model, path, editor, batch)
        past = past + again @ again.T
    assert distance(P, editor.projectors()[path]) < 1e-10


def test_a_covariance_without_a_null_space_is_refused_with_its_numbers() -> None:
    model = tiny_model("gpt2", torch.float64)
    with pytest.raises(NumericalError, match="no eigenvalue below 1e-09: the smallest is"):
        prepared(model, threshold=1e-9, threshold_unit="absolute")


def _growing(d: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a matrix with eigenvalues over four orders, and keys that lie mostly in a few directions, in float64."""
    generator = torch.Generator().manual_seed(seed)
    root, keys = (torch.randn(d, m, generator=generator, dtype=torch.float64) for m in (2 * d, n))
    directions = torch.randn(d, 8, generator=generator, dtype=torch.float64)
    root *= torch.logspace(0, -2, d, dtype=torch.float64)[:, None]
    return root @ root.T, keys / 3 + directions @ torch.randn(8, n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_past_keys_solve_as_if_all_were_in_the_matrix(batch: int) -> None:
    A, every = _growing(40, 210, seed=batch)
    past = PastKeys(A.clone, "A")
    begun = past.state_dict()
    states = []
    for start in range(0, 210 - batch + 1, batch):
        K = every[:, start : start + batch]
        expected = torch.linalg.solve(A + every[:, :start] @ every[:, :start].T + K @ K.T, K)
        states.append((past.state_dict(), K, past.solve_with(K)))
        assert distance(states[-1][2], expected) < 1e-10
        past.add(K)
        assert distance(past.matrix(), A + every[:, : start + batch] @ every[:, : start + batch].T) < 1e-12
    # Of 40 rows an eighth is carried beside the matrix: every sixth single key is followed by a factorization.
    assert past.factorizations == {1: 1 + 210 // 6, 7: 1 + 30, 100: 1 + 2}[batch]
    again = PastKeys(A.clone, "A")
    for state, K, found in [*states, *states[::-1]]:
        again.load_state_dict(state)
        assert torch.equal(again.solve_with(K), found)
    past.load_state_dict(begun)
    assert torch.equal(past.matrix(), PastKeys(A.clone, "A").matrix())


def test_ten_thousand_keys_later_a_solution_is_as_good_as_a_fresh_one() -> None:
    A, every = _growing(48, 10_000, seed=1)
    every[:, 5000:5004] = every[:, 4996:5000]  # the same facts again
    past, whole = PastKeys(A.clone, "A"), A.clone()
    for i, K in enumerate(every.split(4, dim=1)):
        if i % 125 == 0:
            assert distance(past.solve_with(K), torch.linalg.solve(whole + K @ K.T, K)) < 1e-9
            assert past.error < 1e-12
        past.add(K)
        whole += K @ K.T
    assert past.factorizations == 1 + 10_000 // 8


def test_a_matrix_is_factored_anew_as_soon_as_its_solutions_are_inexact() -> None:
    A, every = _growing(160, 19, seed=2)
    past = PastKeys(A.clone, "A")
    for K in every[:, :16].split(1, dim=1):
        past.add(K)
    state = past.state_dict()
    exact = past.solve_with(every[:, 16:17])
    # A slightly wrong A⁻¹ is mended by one refinement, then and from then on; a badly wrong one costs a factorization.
    for wrong, factorizations in ((1e-10, 1), (1e-2, 2)):
        past.load_state_dict({**state, "carried": state["carried"] * (1 + wrong)})
        found = past.solve_with(every[:, 16:17])
        assert (past.error < 1e-12) is (factorizations == 1)
        assert (distance(found, exact) < 1e-8) is (factorizations == 1)
        past.add(every[:, 16:17])
        assert past.factorizations == factorizations
        for i in (17, 18):
            K, known = every[:, i : i + 1], every[:, : i + 1]
            assert distance(past.solve_with(K), torch.linalg.solve(A + known @ known.T, K)) < 1e-10
            past.add(K)


def test_a_matrix_and_its_factor_take_one_square() -> None:
    A, _ = _growing(600, 1, seed=4)
    given = A.clone()
    system = FactoredInPlace(given, "A")
    assert system.tensors()["factored"].data_ptr() == given.data_ptr()
    assert torch.equal(system.matrix(), A.triu() + A.triu(1).T)
    b = torch.ones(600, 1, dtype=torch.float64)
    assert distance(system.solve(b), torch.linalg.solve(A, b)) < 1e-10
    assert distance(system.times(b), A @ b) < 1e-14


def test_keys_of_a_dead_model_solve_to_nan_and_are_not_remembered() -> None:
    A, every = _growing(40, 12, seed=5)
    past, same = PastKeys(A.clone, "A"), PastKeys(A.clone, "A")
    dead = every[:, :1].clone()
    dead[3] = torch.nan
    for i in range(1, 12):
        assert bool(past.solve_with(dead).isnan().all())
        past.add(dead)
        past.add(every[:, i : i + 1])
        same.add(every[:, i : i + 1])
    assert torch.equal(past.matrix(), same.matrix())
    assert bool(past.matrix().isfinite().all())


def test_an_inverse_that_is_no_longer_positive_is_named() -> None:
    A, every = _growing(40, 6, seed=6)
    past = PastKeys(A.clone, "the system of a layer")
    past.add(every[:, :2])
    past.load_state_dict({**past.state_dict(), "carried": past.state_dict()["carried"] * 1e3})
    with pytest.raises(NumericalError, match="the system of a layer: I \\+ KᵀA⁻¹K of 4 keys is not positive definite"):
        past.solve_with(every[:, :4])


def test_solutions_are_measured_first_after_a_factorization_and_every_sixteenth_edit_whoever_asks() -> None:
    A, every = _growing(320, 42, seed=3)
    proposed, remembered = (PastKeys(A.clone, "A") for _ in range(2))
    errors = []
    for i, K in enumerate(every.T.contiguous().T.split(1, dim=1)):
        if i == 5:  # found at the next measurement, by that too which was proposed nothing
            for past in (proposed, remembered):
                past._carried *= 1 + 1e-10
        proposed.solve_with(K)
        errors.append(proposed.error)
        proposed.solve_with(-2 * K)  # refused
        proposed.add(K)
        remembered.add(K.clone(memory_format=torch.contiguous_format))  # as read from disk
        states = proposed.state_dict(), remembered.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(states[1][k])) for k, v in states[0].items())
        assert states[0]["refining"] is (16 <= i < 40)
    assert [i for i in range(1, 42) if errors[i] != errors[i - 1]] == [*range(16, 42)]


@pytest.mark.parametrize("measured", [True, False])
def test_a_wrong_factor_is_noticed_over_ten_thousand_keys(measured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    A, every = _growing(48, 10_000, seed=1)
    right = FactoredInPlace.solve
    monkeypatch.setattr(FactoredInPlace, "solve", lambda self, b: right(self, b) * (1 + 3e-6))
    if not measured:
        monkeypatch.setattr(PastKeys, "_due", lambda self: False)
    past, whole, worst = PastKeys(A.clone, "A"), A.clone(), 0.0
    for i, K in enumerate(every.split(4, dim=1)):
        if i % 125 == 0:
            worst = max(worst, distance(past.solve_with(K), torch.linalg.solve(whole + K @ K.T, K)))
        past.add(K)
        whole += K @ K.T
    assert (worst <= 1e-6) is measured


def test_singular_values_above_a_bound_are_those_of_the_whole_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(12, 30, generator=generator, dtype=torch.float64)
    sigma = torch.linalg.svdvals(M)
    for count in (0, 3, 12):
        bound = float(sigma[0]) + 1 if count == 0 else float(sigma[count - 1]) - 1e-6
        U, found = above(M, bound)
        torch.testing.assert_close(found.flip(0), sigma[:count], rtol=1e-10, atol=0)
        torch.testing.assert_close((U.T @ M).norm(dim=1), found, rtol=1e-10, atol=0)
    with pytest.raises(NumericalError, match="NaN"):
        above(M * float("inf"), 1.0)
    assert null_space(torch.diag(torch.tensor([1.0, 2.0, 3.0])), 2.5, "it").shape == (3, 2)
