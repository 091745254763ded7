"""The strength of closed forms: what part of a change an edit gets, and settings that make it so on any model."""

from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.editors.strength import calibration_facts, realised_fraction, weight_for
from errata.errors import StatisticsError
from tiny import tiny_facts, tiny_model, tiny_text_file


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9), st.floats(0.05, 0.95))
def test_the_calibrated_weight_gives_the_median_key_what_was_asked_for(sizes: list[float], realised: float) -> None:
    size = torch.tensor(sizes, dtype=torch.float64)
    found = realised_fraction(size, weight_for(size, realised))
    assert float(found.sort().values[(len(sizes) - 1) // 2]) == pytest.approx(realised)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_keys_that_no_weight_fits_are_named(bad: float) -> None:
    with pytest.raises(StatisticsError, match=r"cannot be set for this model.*Set covariance_weight yourself"):
        weight_for(torch.tensor([bad, bad, bad]), 0.5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_realises_the_fraction_that_is_set(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    chosen = {"layers": [1], "statistics": {"source": str(tiny_text_file(tmp_path))}, "realised": 0.7}
    settings = resolve_settings("memit", model, chosen)
    assert settings.covariance_weight == "auto"
    editor = editor_class("memit")(settings)
    editor.prepare(model, StatisticsStore(), Random(0))
    found = []
    for fact in calibration_facts():
        update = editor.propose(model, [fact])
        (change,) = update.changes.values()
        # Δ = r kᵀ(λC + kkᵀ)⁻¹, so Δk is the part of r that the edit realises.
        key = update.details[f"keys|{model.mlp_out(1)}"][0].double()
        found.append(float(change.right @ key))
    assert torch.tensor(found).median() == pytest.approx(0.7, abs=0.05)


def test_doubling_every_key_changes_no_update_of_a_calibrated_method(tmp_path: Path) -> None:
    """λ in MEMIT has the unit of nothing, AlphaEdit's that of a squared key: calibrated, neither depends on it."""
    text = str(tiny_text_file(tmp_path))
    for method in ("memit", "alphaedit"):
        updates = []
        for factor in (1.0, 2.0):
            model = tiny_model("gpt2", torch.float64)
            with torch.no_grad():
                # Keys of twice the length and a W of half the size put out the same.
                model.write(model.mlp_out(1), model.weight(model.mlp_out(1)) / factor)
                scaled = model.module(model.mlp_out(1)).register_forward_pre_hook(lambda _m, a, f=factor: (a[0] * f,))
            settings = resolve_settings(method, model, {"layers": [1], "statistics": {"source": text}})
            editor = editor_class(method)(settings)
            editor.prepare(model, StatisticsStore(), Random(0))
            (change,) = editor.propose(model, tiny_facts(1)).changes.values()
            scaled.remove()
            updates.append((change.left @ change.right) * factor)
        torch.testing.assert_close(updates[0], updates[1], rtol=1e-5, atol=1e-9)


def test_published_and_lab_settings_are_left_alone() -> None:
    from errata.models import load, outline

    assert resolve_settings("memit", load("lab-s")).covariance_weight == 1.0
    assert resolve_settings("memit", outline("gpt2-xl")).covariance_weight == 20_000
    assert resolve_settings("alphaedit", outline("gpt2-xl")).threshold_unit == "absolute"
    assert resolve_settings("memit", outline("gpt2-xl")).value.steps == 20


def test_calibration_facts_are_whole_and_no_subject_stands_twice() -> None:
    facts = calibration_facts()
    assert len({fact.subject for fact in facts}) == len(facts) >= 40
    for fact in facts:
        assert fact.target_true
        assert fact.target_true != fact.target_new
        assert all(fact.subject in prompt for prompt in fact.paraphrase_prompts)
        assert all(fact.subject not in prompt for prompt in fact.neighborhood_prompts)
