"""The fast mode: fewer prompts, a stop, matrices in bfloat16; everything else is the exact mode's."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch

from errata.editors.closed_form import ClosedForm
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.editors.value_settings import FAST_PREFIXES
from errata.editors.values import ValueSettings, optimise_values
from errata.edits import Fact
from errata.models import EditableModel
from errata.models import replay as replay_module
from tiny import FAMILIES, tiny_facts, tiny_model, tiny_text_file

LAYER = 1
FACTS = tiny_facts(3)
TEMPLATES = ("{}", "Because. {}", "The old houses stand near water. {}")
SETTINGS = ValueSettings(lr=0.1, steps=6, weight_decay=0.0, loss_stop=0.0)


def prepared(method: str, model: EditableModel, tmp_path, **chosen: Any) -> ClosedForm:
    statistics = {"source": str(tiny_text_file(tmp_path))}
    settings = {"statistics": statistics, "contexts": {"lengths": [[3, 4]]}, **chosen}
    if method != "alphaedit":
        settings["ridge"] = 1e-3
    editor = editor_class(method)(resolve_settings(method, model, settings))
    assert isinstance(editor, ClosedForm)
    editor.prepare(model, StatisticsStore(tmp_path), Random(0))
    return editor


@contextmanager
def precisions(model: EditableModel, path: str) -> Iterator[list[tuple[torch.dtype, torch.dtype]]]:
    """Note in which precision a module finds its weight, and in which it is given its input."""
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    handle = model.module(path).register_forward_pre_hook(
        lambda module, args: seen.append((module.weight.dtype, args[0].dtype))
    )
    yield seen
    handle.remove()


@pytest.fixture
def multiplying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor count as one with instructions for bfloat16, whatever it has."""
    monkeypatch.setattr("errata.models.replay.multiplies_bfloat16", lambda device: True)


@pytest.mark.usefixtures("multiplying")
@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_bfloat16_matrices_are_near_those_of_the_models_own(family: str) -> None:
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.model.named_parameters()}
    exact, half = (
        optimise_values(model, FACTS, LAYER, "block", TEMPLATES, SETTINGS.model_copy(update={"matrices": matrices}))
        for matrices in ("model", "bfloat16")
    )
    for a, b in zip(exact, half, strict=True):
        assert b.vector.dtype == torch.float32
        moved, other = a.vector - a.initial, b.vector - b.initial
        assert torch.nn.functional.cosine_similarity(moved, other, dim=0) > 0.95
        assert not torch.equal(moved, other)
        assert torch.equal(a.initial, b.initial)  # what is constant is computed in the model's own precision
        assert b.losses[-1] == pytest.approx(a.losses[-1], rel=0.05)
    for name, tensor in model.model.named_parameters():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


@pytest.mark.usefixtures("multiplying")
def test_only_matrices_above_the_layer_are_read_in_bfloat16() -> None:
    model = tiny_model("gpt2")
    half = SETTINGS.model_copy(update={"matrices": "bfloat16", "steps": 2})
    inside, below = model.mlp_out(LAYER + 1), model.mlp_out(LAYER)
    norm, head = model.family.final_norm, "lm_head"
    with (
        precisions(model, inside) as above,
        precisions(model, below) as lower,
        precisions(model, norm) as normed,
        precisions(model, head) as read,
    ):
        optimise_values(model, FACTS[:1], LAYER, "block", TEMPLATES, half)
    whole, in_half = (torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)
    assert above == [whole, in_half, in_half]  # the constant parts once, then every step
    assert lower == [whole]
    assert set(normed) == set(read) == {whole}


def test_a_processor_without_such_products_reads_matrices_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("errata.models.replay.multiplies_bfloat16", lambda device: False)
    exact, half = (
        optimise_values(
            tiny_model("gpt2"), FACTS, LAYER, "block", TEMPLATES, SETTINGS.model_copy(update={"matrices": matrices})
        )
        for matrices in ("model", "bfloat16")
    )
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(exact, half, strict=True))


@pytest.mark.usefixtures("multiplying")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precisions_are_read_as_they_are(dtype: torch.dtype) -> None:
    model = tiny_model("llama", dtype)
    exact, half = (
        optimise_values(model, FACTS, LAYER, "block", TEMPLATES, SETTINGS.model_copy(update={"matrices": matrices}))
        for matrices in ("model", "bfloat16")
    )
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(exact, half, strict=True))


def test_the_fast_mode_stops_methods_that_have_no_stop_of_their_own() -> None:
    hurried = ValueSettings().hurried()
    assert (hurried.stop, hurried.stop_contexts, hurried.steps_after) == ("most-probable", "all", 6)
    assert (hurried.settled, hurried.matrices) == (0.05, "bfloat16")


@pytest.mark.parametrize("method", ["encore", "pmet"])
def test_methods_with_a_stop_of_their_own_keep_it(method: str) -> None:
    own = resolve_settings(method, tiny_model("gpt2")).value
    assert own.stop != "loss"
    assert own.hurried() == own.model_copy(update={"settled": 0.05, "matrices": "bfloat16"})


@pytest.mark.parametrize("method", ["rome", "memit", "alphaedit", "pmet"])
def test_values_see_two_prefixes_and_keys_all_of_them(method: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    counted: list[tuple[int, bool]] = []
    original = replay_module.UpperLayers.__init__

    def counting(self: Any, model: Any, layer: int, rows: Any, *args: Any) -> None:
        counted.append((len(rows), args[-1]))
        original(self, model, layer, rows, *args)

    monkeypatch.setattr(replay_module.UpperLayers, "__init__", counting)
    brief = {"value": {"steps": 2}}
    fast, exact = (prepared(method, model, tmp_path, fast=fast, **brief) for fast in (True, False))
    quick, slow = (editor.propose(model, FACTS[:1]) for editor in (fast, exact))
    prefixes = len(fast.state_dict()["templates"]) - (method == "rome")  # ROME's hold the bare prompt too
    assert prefixes == 4
    # Beside the contexts there is the essence prompt.
    assert counted == [(1 + FAST_PREFIXES + 1, True), (1 + prefixes + 1, False)]
    lowest = model.mlp_out(min(fast._layers()))
    if method == "memit":  # below every change the keys are those of the exact mode, bit for bit
        assert torch.equal(quick.details[f"keys|{lowest}"], slow.details[f"keys|{lowest}"])


def test_the_fast_mode_takes_six_steps_once_the_object_is_the_most_probable_and_no_more() -> None:
    model = tiny_model("gpt2", seed=2)
    sayable = Fact(subject="Boris Bell", prompt="These days one speaks of {}", target_new="music")
    free = {"weight_decay": 0.0, "kl_factor": 0.0, "loss_stop": 0.0, "clamp_norm_factor": 100.0}
    slow = ValueSettings(lr=0.3, steps=40, **free)
    at_once = slow.hurried().model_copy(update={"steps_after": 0})
    exact, fast, first = (
        len(optimise_values(model, [sayable], LAYER, "block", TEMPLATES[:2], s)[0].losses)
        for s in (slow, slow.hurried(), at_once)
    )
    assert exact == 40
    assert first + 6 == fast < 40


def test_a_settled_loss_ends_the_optimisation_where_the_bound_holds_it_and_nowhere_else() -> None:
    model = tiny_model("gpt2")
    long = {"lr": 0.5, "steps": 60, "weight_decay": 0.0, "loss_stop": 0.0}

    def ended(fact: Fact, bound: float, settled: float) -> tuple[float, ...]:
        settings = ValueSettings(clamp_norm_factor=bound, settled=settled, **long)
        return optimise_values(model, [fact], LAYER, "block", TEMPLATES, settings)[0].losses

    for fact in FACTS:
        whole, short = ended(fact, 0.5, 0.0), ended(fact, 0.5, 0.02)
        assert len(whole) == 60
        assert len(short) < 60
        assert short == whole[: len(short)]
        # What it ends on: two steps in a row that brought less than a fiftieth of all; not earlier.
        brought = [a - b < 0.02 * (whole[0] - b) for a, b in pairwise(short)]
        assert brought[-2:] == [True, True]
        assert len(ended(fact, 1e6, 0.02)) == 60  # free of its bound, δ goes on


def test_facts_of_a_batch_settle_each_by_itself() -> None:
    model = tiny_model("gpt2")
    settings = ValueSettings(lr=0.5, steps=40, clamp_norm_factor=0.5, settled=0.02, loss_stop=0.0)
    together = optimise_values(model, FACTS, LAYER, "block", TEMPLATES, settings)
    alone = [optimise_values(model, [fact], LAYER, "block", TEMPLATES, settings)[0] for fact in FACTS]
    assert [len(value.losses) for value in together] == [len(value.losses) for value in alone]
