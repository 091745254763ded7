"""Fine-tuning methods: their loss, their bounds, what they train and what they leave alone."""

from random import Random

import pytest
import torch

from errata.editors.finetuning import FineTuningSettings, descend, fine_tune, target_loss
from errata.editors.projections import projections
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Dense, LowRank, Update, overlay
from errata.errors import ConfigError, EditDataError, NumericalError
from errata.trajectory import Trajectory
from tiny import tiny_facts, tiny_model

FACTS = tiny_facts(4)


def prepared(name, model, **settings):
    editor = editor_class(name)(resolve_settings(name, model, settings))
    editor.prepare(model, StatisticsStore(), Random(0))
    return editor


def log_probs(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.model(torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("forced", [True, False])
def test_the_loss_is_that_of_each_fact_run_alone(family, forced) -> None:
    model = tiny_model(family, torch.float64)
    expected = []
    for fact in FACTS:
        (prompt,), target = model.encode([fact.text]), model.encode_target(fact.target_new)
        out = log_probs(model, prompt + target if forced else prompt)
        rows = range(len(prompt) - 1, len(prompt) - 1 + len(target)) if forced else [len(prompt) - 1] * len(target)
        expected.append(-out[list(rows), target].mean())
    assert len({len(model.encode_target(f.target_new)) for f in FACTS}) > 1
    torch.testing.assert_close(target_loss(model, FACTS, forced=forced), torch.stack(expected).mean())


def test_the_end_of_text_can_be_a_target_and_must_exist() -> None:
    model = tiny_model("gpt2", torch.float64)
    (prompt,), target = model.encode([FACTS[0].text]), model.encode_target(FACTS[0].target_new)
    out = log_probs(model, prompt + target)[len(prompt) - 1 :]
    expected = -out[range(len(target) + 1), [*target, model.tokenizer.eos_token_id]].mean()
    torch.testing.assert_close(target_loss(model, FACTS[:1], end_token=True), expected)
    model.tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="has no end-of-text token"):
        target_loss(model, FACTS[:1], end_token=True)


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    model = tiny_model("gpt2")
    model.model.config.max_position_embeddings = model.model.config.n_positions = 4
    with pytest.raises(EditDataError, match="positions"):
        target_loss(model, FACTS[:1])


def test_descend_trains_in_mini_batches_skips_what_fits_and_stops_when_all_does() -> None:
    seen: list[list[str]] = []
    weight = torch.tensor([1.0], requires_grad=True)

    def loss_of(facts):
        seen.append([f.id for f in facts])
        return weight.sum() * (0 if facts[0].id == "0" else 1)

    settings = FineTuningSettings(lr=0.5, steps=10, mini_batch=2, loss_stop=0.3)
    result = descend([weight], loss_of, FACTS[:3], settings)
    assert seen[:2] == [["0", "1"], ["2"]]
    # The first mini-batch fits from the beginning; the second after two of Adam's steps of 0.5 from a loss of 1.
    assert result["steps"] == 2
    # 1 → 0.5 → 0: the second pass's mean, (0 + 0 + 0.5)/3, is below the bound.
    assert len(seen) == 4
    assert result["loss"] == pytest.approx(0.5 / 3)


def test_the_order_of_mini_batches_is_the_seed_s() -> None:
    def orders(seed: int) -> list[str]:
        seen: list[str] = []
        weight = torch.ones(1, requires_grad=True)

        def loss_of(facts):
            seen.extend(f.id for f in facts)
            return 100 * weight.sum()

        descend([weight], loss_of, tiny_facts(8), FineTuningSettings(steps=3, mini_batch=3), rng=Random(seed))
        return seen

    assert orders(1) == orders(1) != orders(2)
    first = orders(1)
    assert sorted(first[:8]) == sorted(first[8:16]) == sorted(f.id for f in tiny_facts(8))
    assert first[:8] != first[8:16]


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    weight = torch.ones(1, requires_grad=True)
    with pytest.raises(NumericalError, match="loss is nan"):
        descend([weight], lambda facts: weight.sum() * torch.nan, FACTS, FineTuningSettings())


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("name", ["ft-c", "ft-m", "locft-bf", "lora"])
def test_no_parameter_of_the_model_gets_a_gradient(name, family) -> None:
    model = tiny_model(family)
    extra = {} if name == "lora" else {"layer": 1}
    prepared(name, model, lr=0.02, steps=3, **extra).propose(model, FACTS[:2])
    assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())


def test_ft_c_trains_the_bias_like_its_authors_where_there_is_one_and_on_demand_not() -> None:
    gpt2, llama = tiny_model("gpt2"), tiny_model("llama")
    path = gpt2.mlp_out(1)
    assert set(prepared("ft-c", gpt2, layer=1).propose(gpt2, FACTS[:1]).changes) == {path, f"{path}.bias"}
    assert set(prepared("ft-c", gpt2, layer=1, bias=False).propose(gpt2, FACTS[:1]).changes) == {path}
    assert set(prepared("ft-c", llama, layer=1).propose(llama, FACTS[:1]).changes) == {llama.mlp_out(1)}


@pytest.mark.parametrize(("bound", "allowed"), [("edit", 3 * 0.01), ("unedited", 0.01)])
def test_ft_c_measures_its_bound_from_the_edit_s_start_or_from_the_unedited_model(bound, allowed) -> None:
    model = tiny_model("gpt2", torch.float64)
    trajectory = Trajectory(model, prepared("ft-c", model, layer=1, lr=0.01, epsilon=0.01, steps=5, bound=bound))
    path = model.mlp_out(1)
    before = {p: model.weight(p).clone() for p in (path, f"{path}.bias")}
    for fact in FACTS[:3]:
        previous = {p: model.weight(p).clone() for p in before}
        trajectory.advance([fact])
        if bound == "edit":
            assert all((model.weight(p) - w).abs().max() <= 0.01 + 1e-12 for p, w in previous.items())
    moved = max(float((model.weight(p) - w).abs().max()) for p, w in before.items())
    assert moved <= allowed + 1e-12
    assert moved > 0.012 or bound == "unedited"


def test_teacher_forcing_teaches_a_target_of_several_tokens_which_a_bag_of_tokens_does_not() -> None:
    model = tiny_model("gpt2")
    fact = next(f for f in tiny_facts(8) if len(model.encode_target(f.target_new)) > 1)
    (prompt,), target = model.encode([fact.text]), model.encode_target(fact.target_new)
    said = {}
    for targets in ("last-position", "teacher-forced"):
        editor = prepared("ft-c", model, layer=1, lr=0.05, epsilon=1.0, steps=40, targets=targets)
        with overlay(model, editor.propose(model, [fact]).changes):
            out = log_probs(model, prompt + target)[len(prompt) - 1 : -1]
        said[targets] = out.argmax(-1).tolist() == target
    assert said == {"last-position": False, "teacher-forced": True}


def test_ft_m_is_ft_c_without_its_bound() -> None:
    model = tiny_model("gptj", torch.float64)
    free = prepared("ft-m", model, layer=1, bias=True, lr=0.01).propose(model, FACTS[:2])
    bound = prepared("ft-c", model, layer=1, targets="teacher-forced", epsilon=1e9, lr=0.01).propose(model, FACTS[:2])
    for path, change in bound.changes.items():
        assert torch.equal(change.matrix, free.changes[path].matrix)


def test_half_precision_is_trained_in_float32() -> None:
    model = tiny_model("llama", torch.bfloat16)
    update = prepared("ft-m", model, layer=1, lr=1e-4, steps=3, loss_stop=0.0).propose(model, FACTS[:1])
    (change,) = update.changes.values()
    assert change.matrix.dtype == torch.float32
    # Steps of 1e-4 vanish beside weights of 0.2 in bfloat16; three of Adam's move each weight by up to 3e-4.
    assert 2e-4 < float(change.matrix.abs().max()) < 4e-4


def test_locft_bf_with_one_fact_is_ft_m_with_an_end() -> None:
    model = tiny_model("gpt2", torch.float64)
    one = prepared("locft-bf", model, layer=2, lr=0.01, end_token=False).propose(model, FACTS[:1])
    other = prepared("ft-m", model, layer=2, lr=0.01).propose(model, FACTS[:1])
    assert torch.equal(one.changes[model.mlp_out(2)].matrix, other.changes[model.mlp_out(2)].matrix)
    ended = prepared("locft-bf", model, layer=2, lr=0.01).propose(model, FACTS[:1])
    assert not torch.equal(one.changes[model.mlp_out(2)].matrix, ended.changes[model.mlp_out(2)].matrix)


def test_locft_bf_learns_all_edits_of_a_batch_where_one_after_another_forgets() -> None:
    facts = tiny_facts(6)
    losses = {}
    for size in (6, 1):
        model = tiny_model("gpt2")
        trajectory = Trajectory(model, prepared("locft-bf", model, layer=1, lr=0.02, steps=40, end_token=False))
        for i in range(0, 6, size):
            trajectory.advance(facts[i : i + size])
        losses[size] = float(target_loss(model, facts))
    assert losses[6] < 0.5 * losses[1], losses


def test_lora_s_update_has_its_rank_and_scale_and_fits_fused_projections() -> None:
    model = tiny_model("gpt2", torch.float64)
    editor = prepared("lora", model, modules=("c_attn",), rank=3, alpha=6, lr=0.02, steps=5)
    update = editor.propose(model, FACTS[:1])
    assert set(update.changes) == {f"transformer.h.{i}.attn.c_attn" for i in range(4)}
    for change in update.changes.values():
        assert isinstance(change, LowRank)
        assert change.left.shape == (96, 3)
        assert change.right.shape == (3, 32)
    with overlay(model, update.changes):
        told = float(target_loss(model, FACTS[:1]))
    assert told < update.diagnostics["loss"] < float(target_loss(model, FACTS[:1]))


def test_lora_draws_anew_for_every_batch_and_alike_for_the_same() -> None:
    model = tiny_model("llama")
    editor = prepared("lora", model, modules=("q_proj",), lr=0.02, steps=2)
    one, again, other = (editor.propose(model, [FACTS[i]]).changes for i in (0, 0, 1))
    path = "model.layers.0.self_attn.q_proj"
    assert torch.equal(one[path].right, again[path].right)
    assert float((one[path].right - other[path].right).norm()) > 0.5 * float(one[path].right.norm())


def test_projections_are_found_by_the_end_of_their_path_or_the_module_around_them() -> None:
    gpt2, llama = tiny_model("gpt2"), tiny_model("llama")
    assert projections(gpt2, ["2.mlp.c_proj"]) == ["transformer.h.2.mlp.c_proj"]
    assert projections(gpt2, ["attn"], [1]) == ["transformer.h.1.attn.c_attn", "transformer.h.1.attn.c_proj"]
    assert len(projections(llama, ["mlp", "up_proj"])) == 3 * llama.n_layers
    with pytest.raises(ConfigError, match=r"'modules' .*names 'q_pro', but tiny-llama .*Did you mean 'q_proj'\?"):
        projections(llama, ["up_proj", "q_pro"])


def test_an_update_of_a_bias_is_overlaid_applied_stored_and_undone() -> None:
    model = tiny_model("gpt2", torch.float64)
    path = model.mlp_out(1)
    rng = torch.Generator().manual_seed(0)
    changes = {
        path: LowRank(*(torch.randn(s, generator=rng, dtype=torch.float64) for s in ((32, 1), (1, 128)))),
        f"{path}.bias": Dense(torch.randn(32, 1, generator=rng, dtype=torch.float64)),
    }
    restored = Update.from_tensors(Update(changes).tensors())
    assert set(restored.changes) == set(changes)
    ids = model.encode([FACTS[0].text])[0]
    before = log_probs(model, ids)
    with overlay(model, changes):
        promised = log_probs(model, ids)
    for place, change in changes.items():
        weight = model.weight(place).clone()
        change.add_to(weight)
        model.write(place, weight)
    torch.testing.assert_close(log_probs(model, ids), promised, rtol=0, atol=1e-10)
    assert not torch.allclose(before, promised)
    assert model.weight(f"{path}.bias").shape == (32, 1)


def test_a_bias_is_judged_beside_its_weight_not_against_its_own_zeros() -> None:
    model = tiny_model("gpt2")
    assert not model.weight(f"{model.mlp_out(1)}.bias").any()
    (entry,) = Trajectory(model, prepared("ft-c", model, layer=1, lr=0.02, epsilon=0.05, steps=3)).advance(FACTS[:1])
    assert entry.status == "applied"
    assert 0 < entry.relative < 1


def test_fine_tuning_keeps_within_its_bound_of_a_given_origin() -> None:
    model = tiny_model("gpt2", torch.float64)
    path = model.mlp_out(0)
    origin = {path: model.parameter(path).detach() + 0.02}
    update = fine_tune(model, [path], FACTS[:1], FineTuningSettings(lr=0.01), bound=0.005, origin=origin)
    moved = update.changes[path].matrix
    assert float(moved.min()) >= 0.015 - 1e-12
    assert float(moved.max()) <= 0.025 + 1e-12


def test_an_automatic_step_and_bound_are_shares_of_the_weight_s_size() -> None:
    model = tiny_model("llama", torch.float64)
    path = model.mlp_out(1)
    size = float(model.weight(path).pow(2).mean().sqrt())
    (one,) = prepared("ft-m", model, layer=1, steps=1, lr="auto").propose(model, FACTS[:1]).changes.values()
    assert float(one.matrix.abs().max()) == pytest.approx(0.02 * size, rel=1e-3)
    many = prepared("ft-c", model, layer=1, steps=9, lr="auto", epsilon="auto", loss_stop=0.0)
    (bound,) = many.propose(model, FACTS[:1]).changes.values()
    assert float(bound.matrix.abs().max()) == pytest.approx(0.02 * size, rel=1e-6)
    assert resolve_settings("ft-c", model).epsilon == "auto"


def test_steps_begin_at_the_block_that_is_trained() -> None:
    model = tiny_model("llama", torch.float64)
    editor = prepared("ft-m", model, layer=2, steps=6, lr=0.01, loss_stop=0.0)
    expected = prepared("ft-m", model, layer=2, steps=1, lr=0.01, loss_stop=0.0).propose(model, FACTS[:2])
    ran = []
    with model.module(model.mlp_out(1)).register_forward_hook(lambda *_: ran.append(1)):
        update = editor.propose(model, FACTS[:2])
    assert len(ran) == 2  # once for each fact
    assert model.begun is None
    whole = torch.stack([target_loss(model, [fact]) for fact in FACTS[:2]]).mean()
    assert expected.diagnostics["loss"] == pytest.approx(float(whole), rel=1e-9)
    with overlay(model, update.changes):
        assert float(target_loss(model, FACTS[:2])) < float(whole) - 0.5


def test_lora_takes_small_steps_and_stops_where_nothing_is_published() -> None:
    model = tiny_model("gpt2")
    settings = resolve_settings("lora", model)
    assert (settings.lr, settings.loss_stop) == (2e-4, 0.05)
    model.settings = {"lora": {"rank": 4}}
    settings = resolve_settings("lora", model)
    assert (settings.lr, settings.loss_stop) == (5e-3, 0.0)
