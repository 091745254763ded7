"""Behind a norm: W is asked for the output with which the block comes as near as it can to what is wanted."""

from random import Random

import pytest
import torch

from errata.editors.behind_norm import before_norm, nearest_unit
from errata.editors.keys import at_subject, place
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import overlay
from errata.editors.values import ValueSettings, optimise_values
from errata.models.hooks import add_to_outputs
from tiny import tiny_facts, tiny_model, tiny_text_file

NORMED = ("gemma2", "gemma3_text")


def test_no_other_unit_vector_is_nearer() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    gain, wanted = draw(1, 7), 2 * draw(5, 7)
    gain[0, 2], gain[0, 3] = 0.0, 1e-9
    found = nearest_unit(gain, wanted)
    torch.testing.assert_close(found.pow(2).mean(1), torch.ones(5, dtype=torch.float64))
    distance = (gain * found - wanted).norm(dim=1)
    other = draw(20_000, 1, 7) + found
    other = other / other.pow(2).mean(-1, keepdim=True).sqrt()
    near = found + 1e-3 * draw(20_000, 1, 7)
    near = near / near.pow(2).mean(-1, keepdim=True).sqrt()
    for tried in (other, near):
        assert bool(((gain * tried - wanted).norm(dim=-1) >= distance - 1e-9).all())


def test_what_the_norm_can_reach_is_reached() -> None:
    gain = torch.tensor([[1.0, -0.5, 2.0, 0.1]], dtype=torch.float64)
    unit = torch.tensor([[1.0, 2.0, -1.0, 0.5]], dtype=torch.float64)
    unit /= unit.pow(2).mean().sqrt()
    torch.testing.assert_close(nearest_unit(gain, gain * unit), unit)


@pytest.mark.parametrize("family", NORMED)
def test_the_block_moves_by_the_residual_where_it_can(family: str) -> None:
    model = tiny_model(family)
    placed = [place(model, fact) for fact in tiny_facts(3)]
    path, block = model.mlp_out(1), model.block_path(1)
    _, before = at_subject(model, block, placed)
    push = torch.randn(model.hidden_size, generator=torch.Generator().manual_seed(0))

    def at(change: torch.Tensor) -> torch.Tensor:
        def add(_received, output):
            moved = output.clone()
            for row, (_, position) in enumerate(placed):
                moved[row, position] += change[row].to(output)
            return moved

        with add_to_outputs(model.model, {path: add}):
            return at_subject(model, block, placed)[1]

    after = at(push.expand(3, -1))
    norm, (_, v) = model.mlp_norm(1), at_subject(model, path, placed)
    delta = before_norm(norm, v, (after - before).T.double())
    torch.testing.assert_close(at(delta.T), after, rtol=1e-4, atol=1e-4)
    # The length of v stays; what is asked for beyond the norm's range is approached.
    far = before_norm(norm, v, 100 * (after - before).T.double())
    reached = at(far.T)
    wanted = before + 100 * (after - before)
    assert bool(((reached - wanted).norm(dim=1) < (before - wanted).norm(dim=1)).all())


@pytest.mark.parametrize("family", NORMED)
def test_memit_reaches_z_through_the_norm(family: str, tmp_path) -> None:
    model, (fact,) = tiny_model(family), tiny_facts(1)
    value = {"lr": 0.3, "steps": 8, "weight_decay": 0.0, "clamp_norm_factor": 4.0}
    chosen = {"layers": (1,), "value": value, "ridge": 1.0, "covariance_weight": 1e-6, "contexts": {"lengths": ()}}
    settings = resolve_settings("memit", model, {**chosen, "statistics": {"source": str(tiny_text_file(tmp_path))}})
    editor = editor_class("memit")(settings)
    editor.prepare(model, StatisticsStore(tmp_path / "cache"), Random(0))
    z = optimise_values(model, [fact], 1, "block", ["{}"], settings.value)[0]
    with overlay(model, editor.propose(model, [fact]).changes):
        _, reached = at_subject(model, model.block_path(1), [place(model, fact)])
    assert float((reached[0] - z.vector).norm() / (z.vector - z.initial).norm()) < 1e-3


@pytest.mark.parametrize("family", NORMED)
def test_a_value_of_w_keeps_w_s_length_and_gives_what_it_was_found_for(family: str) -> None:
    model = tiny_model(family)
    settings = ValueSettings(steps=5, clamp_norm_factor=4.0)
    (value,) = optimise_values(model, tiny_facts(1), 1, "mlp", ["{}"], settings)
    assert float(value.vector.norm()) == pytest.approx(float(value.initial.norm()), rel=1e-5)
    assert float((value.vector - value.initial).norm()) > 0.1 * float(value.initial.norm())
