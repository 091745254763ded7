"""Training of hypernetworks: examples, losses, the loop, and what it leaves behind."""

import json
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from errata.editors.gradients import TokenGradients, pairs_of, token_gradients
from errata.editors.hypernetworks.factors import Factors
from errata.editors.hypernetworks.mend import MENDNetwork
from errata.editors.methods.mend import MEND, MENDSettings, MENDTraining
from errata.editors.statistics import StatisticsStore
from errata.edits import Fact
from errata.errors import ConfigError, EditDataError, NumericalError, ResumeError, RunError
from errata.lab.models import LAB_MODELS, asset_path
from errata.training import train, trainable_class
from errata.training.checkpoint import NETWORK
from errata.training.examples import ExampleSettings, draw_examples
from errata.training.loop import resolve_training
from tiny import tiny_facts, tiny_model

SETTINGS = {
    "steps": 6,
    "edits_per_step": 2,
    "validation": 4,
    "validate_every": 2,
    "checkpoint_every": 2,
    "rank": 4,
    "alpha": 0.01,
    "lr": 1e-2,
    "alpha_lr": 1e-3,
}
FACTS = tiny_facts(20)


def network_for(model, **training) -> tuple[MENDNetwork, MENDTraining]:
    settings = MENDTraining(**{"rank": 6, "alpha": 0.05, **training})
    return MEND.network(model, settings, torch.Generator().manual_seed(1)), settings


def shaken(network: MENDNetwork, seed: int = 0) -> MENDNetwork:
    """Give every parameter some noise: the identity hides what is forgotten."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network


def test_examples_ask_otherwise_than_they_teach_and_never_protect_what_they_change() -> None:
    drawn = draw_examples(FACTS, 30, ExampleSettings(facts=2, locality=3), Random(3))
    assert drawn == draw_examples(FACTS, 30, ExampleSettings(facts=2, locality=3), Random(3))
    assert drawn != draw_examples(FACTS, 30, ExampleSettings(facts=2, locality=3), Random(4))
    for example in drawn:
        assert len(example.facts) == len(example.asked) == 2
        assert len(example.locality) == 3
        for fact, asked in zip(example.facts, example.asked, strict=True):
            assert asked in fact.paraphrase_prompts
            assert fact.text not in example.locality
        assert example.locality[0] in [p for fact in example.facts for p in fact.neighborhood_prompts]
    taught = [fact.id for example in drawn[:10] for fact in example.facts]
    assert len(set(taught)) == 20


def test_a_fact_without_paraphrases_or_neighbours_is_asked_by_its_own_prompt() -> None:
    facts = [Fact(subject=s, prompt="{} is in", target_new="Oslo", id=s) for s in ("Ada", "Bo", "Cy")]
    for example in draw_examples(facts, 5, ExampleSettings(), Random(0)):
        assert example.asked == (example.facts[0].text,)
        assert len(example.locality) == 2
        assert example.facts[0].text not in example.locality


def test_an_untrained_network_is_the_gradient_normalised() -> None:
    model = tiny_model("gpt2")
    network, _ = network_for(model)
    gradients, _ = token_gradients(model, network.paths, pairs_of(model, FACTS[:5]))
    with torch.no_grad():
        factors = network.train()(gradients, 1)
    path = network.paths[0]
    shared = [p for p in network.paths if model.weight(p).shape == model.weight(path).shape]
    assert len(shared) == 3
    seen = {p: gradients[p].used for p in shared}
    inputs = torch.cat([gradients[p].inputs[seen[p]] for p in shared])
    # The statistics run on: the first matrix is normalised by its own tokens, the last by those of all three.
    u, delta = gradients[shared[-1]].inputs[seen[shared[-1]]], gradients[shared[-1]].deltas[seen[shared[-1]]]
    deltas = torch.cat([gradients[p].deltas[seen[p]] for p in shared])
    expected = (
        -0.05 * ((delta - deltas.mean(0)) / (deltas.std(0) + 1e-7)).T @ ((u - inputs.mean(0)) / (inputs.std(0) + 1e-7))
    )
    ours = factors[shared[-1]].left[0].T @ factors[shared[-1]].right[0]
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_running_statistics_are_those_of_all_tokens_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    network = MENDNetwork({"a": (3, 5)}, 2, 1, 0.1, generator).train()
    seen = []
    for rows in (1, 4, 2):
        u, d = torch.randn(rows, 7, 5, generator=generator) + 2, torch.randn(rows, 7, 3, generator=generator)
        d[:, 5:] = 0
        network({"a": TokenGradients(u, d)}, 1)
        seen.append(torch.cat([u, d], -1)[:, :5].reshape(-1, 8))
    (transform,) = network.transforms.values()
    all_seen = torch.cat(seen)
    assert int(transform.count) == len(all_seen)
    torch.testing.assert_close(transform.mean, all_seen.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(transform.squares / (transform.count - 1), all_seen.var(0), rtol=1e-4, atol=1e-5)


def test_factors_act_on_the_rows_of_their_own_edit() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(3, 4, 5, generator=generator), torch.randn(3, 4, 2, generator=generator)
    x = torch.randn(6, 7, 2, generator=generator)
    ours = Factors(left, right).apply(x)
    for row in range(6):
        change = left[row // 2].T @ right[row // 2]
        torch.testing.assert_close(ours[row], x[row] @ change.T)


def test_matrices_of_one_shape_share_a_transform_but_for_scale_and_offset() -> None:
    network, _ = network_for(tiny_model("llama"), layers=(0, 2))
    assert [len(t.layers[0].scale) for t in network.transforms.values()] == [4, 2]
    assert len(network.paths) == len(network.alphas) == 6


@pytest.mark.parametrize("facts", [1, 2])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_is_that_of_edits_written_one_by_one(family, facts) -> None:
    model = tiny_model(family, torch.float64)
    network, settings = network_for(model, edit_weight=0.3, examples={"facts": facts, "locality": 2})
    examples = draw_examples(FACTS, 3, settings.examples, Random(5))
    with torch.no_grad():
        MEND.loss(network.train(), model, settings, examples)  # fills the statistics
    network = shaken(network).double().eval()
    with torch.no_grad():
        ours, figures = MEND.loss(network, model, settings, examples)

    def predictions(text: str) -> torch.Tensor:
        return model.model(input_ids=torch.tensor(model.encode([text]))).logits[0].log_softmax(-1)

    edit, locality = [], []
    for example in examples:
        gradients, _ = token_gradients(model, network.paths, pairs_of(model, example.facts))
        with torch.no_grad():
            factors = network(gradients, 1)
            before = [predictions(text) for text in example.locality]
            stored = {path: model.weight(path).clone() for path in network.paths}
            for path, f in factors.items():
                model.write(path, stored[path] + f.left[0].T @ f.right[0])
            nll = []
            for prompt, fact in zip(model.encode(example.asked), example.facts, strict=True):
                target = model.encode_target(fact.target_new)
                logits = model.model(input_ids=torch.tensor([prompt + target])).logits[0].log_softmax(-1)
                nll += [-logits[len(prompt) - 1 + i, t] for i, t in enumerate(target)]
            edit.append(torch.stack(nll).mean())
            kl = [(p.exp() * (p - predictions(t))).sum(-1) for p, t in zip(before, example.locality, strict=True)]
            locality.append(torch.cat(kl).mean())
            for path, weight in stored.items():
                model.write(path, weight)
    assert figures["edit"] == pytest.approx(float(torch.stack(edit).mean()), rel=1e-5)
    assert figures["locality"] == pytest.approx(float(torch.stack(locality).mean()), rel=1e-4, abs=1e-8)
    assert float(ours) == pytest.approx(0.3 * figures["edit"] + figures["locality"], rel=1e-6)


def test_training_lowers_the_loss_and_keeps_the_best_network(tmp_path) -> None:
    model = tiny_model("gpt2")
    weights = {k: v.clone() for k, v in model.model.state_dict().items()}
    held: list[float] = []
    steps = {**SETTINGS, "steps": 30, "edits_per_step": 4}

    def progress(step, total, figures) -> None:
        assert total == 30
        assert "loss" in figures
        held.extend(v for k, v in figures.items() if k == "held.loss")

    done = train("mend", model, FACTS, tmp_path / "a", settings=steps, progress=progress)
    assert len(held) == 15
    assert min(held) < 0.8 * held[0]
    assert done.figures["held.loss"] == min(held)
    assert done.step == 2 * (held.index(min(held)) + 1)
    assert done.steps == 30
    assert all(torch.equal(v, weights[k]) for k, v in model.model.state_dict().items())
    editor = MEND(MENDSettings(checkpoint=str(tmp_path / "a")))
    editor.prepare(model, StatisticsStore(), Random(0))
    assert editor.propose(model, FACTS[:1]).changes


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_interrupted_training_ends_in_the_same_bytes(tmp_path, at) -> None:
    model = tiny_model("llama")
    train("mend", model, FACTS, tmp_path / "whole", settings=SETTINGS)

    def stop(step, total, figures) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("mend", model, FACTS, tmp_path / "cut", settings=SETTINGS, progress=stop)
    begun = at >= SETTINGS["checkpoint_every"]
    train("mend", model, FACTS, tmp_path / "cut", settings=SETTINGS, resume=begun)
    for name in (NETWORK, "resume.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_training_goes_on_to_more_steps_as_if_it_had_never_stopped(tmp_path) -> None:
    model = tiny_model("gpt2")
    train("mend", model, FACTS, tmp_path / "a", settings={**SETTINGS, "steps": 4})
    with pytest.raises(RunError, match="holds a training already"):
        train("mend", model, FACTS, tmp_path / "a", settings=SETTINGS)
    assert train("mend", model, FACTS, tmp_path / "a", settings=SETTINGS, resume=True).steps == 6
    train("mend", model, FACTS, tmp_path / "b", settings=SETTINGS)
    a, b = (load_file(tmp_path / x / "resume.safetensors") for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in b)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"settings": {**SETTINGS, "rank": 5}}, "settings"), ({"facts": FACTS[1:]}, "facts"), ({"seed": 3}, "seed")],
)
def test_resuming_with_something_else_is_refused(tmp_path, change, what) -> None:
    model = tiny_model("gpt2")
    given = {"facts": FACTS, "settings": SETTINGS, "seed": 0}
    train("mend", model, given["facts"], tmp_path, settings=given["settings"])
    now = {**given, **change}
    with pytest.raises(ResumeError, match=f"other {what}"):
        train("mend", model, now["facts"], tmp_path, settings=now["settings"], seed=now["seed"], resume=True)
    with pytest.raises(ResumeError, match="other model"):
        train("mend", tiny_model("gpt2", seed=4), FACTS, tmp_path, settings=SETTINGS, resume=True)
    with pytest.raises(ResumeError, match="there is no"):
        train("mend", model, FACTS, tmp_path / "elsewhere", settings=SETTINGS, resume=True)


def test_mistakes_are_named(tmp_path) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ConfigError, match=r"needs no training; methods that do: .*mend"):
        trainable_class("rome")
    with pytest.raises(ConfigError, match="did you mean 'rank'"):
        train("mend", model, FACTS, tmp_path, settings={"rnak": 3})
    with pytest.raises(EditDataError, match="too few to train"):
        train("mend", model, FACTS[:5], tmp_path, settings=SETTINGS)
    with pytest.raises(NumericalError, match="Lower lr"):
        train("mend", model, FACTS, tmp_path, settings={**SETTINGS, "alpha": 1e30})


def test_a_training_that_keeps_no_network_says_so(tmp_path, monkeypatch) -> None:
    found = MEND.loss.__func__

    def loss(cls, network, *rest):
        value, figures = found(cls, network, *rest)
        return (value if network.training else value * torch.nan), figures

    monkeypatch.setattr(MEND, "loss", classmethod(loss))
    with pytest.raises(NumericalError, match="no network was kept"):
        train("mend", tiny_model("gpt2"), FACTS, tmp_path, settings=SETTINGS)


def test_a_models_own_settings_lie_between_the_defaults_and_the_users() -> None:
    model = tiny_model("gpt2")
    model.settings = {"train": {"ke": {"lstm": 3, "examples": {"locality": 2}, "hidden": 9}}}
    resolved = resolve_training(trainable_class("ke"), model, {"hidden": 5})
    assert (resolved.lstm, resolved.hidden, resolved.condition) == (3, 5, 1024)
    assert (resolved.examples.locality, resolved.examples.facts) == (2, 1)
    plain = resolve_training(trainable_class("ke"), tiny_model("gpt2"), {})
    assert plain.examples.locality == 8, "KE's own default, not that of the section"


@pytest.mark.parametrize("name", LAB_MODELS)
def test_what_the_lab_recommends_can_be_resolved(name) -> None:
    model = tiny_model("gpt2")
    model.settings = json.loads((asset_path(name) / "editing.json").read_text())
    for method in model.settings.get("train", {}):
        resolve_training(trainable_class(method), model, {})


def test_a_checkpoint_that_is_not_the_models_is_refused(tmp_path) -> None:
    model = tiny_model("gpt2")
    folder = tmp_path / "mend"
    train("mend", model, FACTS, folder, settings=SETTINGS)

    def prepare(on, **settings) -> MEND:
        editor = MEND(MENDSettings(**{"checkpoint": str(folder), **settings}))
        editor.prepare(on, StatisticsStore(), Random(0))
        return editor

    with pytest.raises(ConfigError, match=r"checkpoint is not set.*errata train mend --model tiny-gpt2"):
        prepare(model, checkpoint="")
    with pytest.raises(ConfigError, match="there is no"):
        prepare(model, checkpoint=str(tmp_path))
    with pytest.raises(ConfigError, match="other shapes or places"):
        prepare(tiny_model("llama"))
    other = tiny_model("gpt2", seed=9)
    with pytest.raises(ConfigError, match=r"weights differ.*other_weights=true"):
        prepare(other)
    assert prepare(other, other_weights=True).propose(other, FACTS[:1]).changes
    # In float64 and bfloat16 they are the same weights.
    prepare(tiny_model("gpt2", torch.float64))

    begun = prepare(model).state_dict()
    prepare(model).load_state_dict(json.loads(json.dumps(begun)))
    train("mend", model, FACTS, tmp_path / "anew", settings=SETTINGS, seed=1)
    with pytest.raises(ResumeError, match="trained anew"):
        prepare(model, checkpoint=str(tmp_path / "anew")).load_state_dict(begun)

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    save_file({"x": torch.zeros(2)}, foreign / NETWORK)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / NETWORK).write_bytes((folder / NETWORK).read_bytes()[:200])
    for name in ("foreign", "broken"):
        with pytest.raises(ConfigError, match="damaged or no network of ours"):
            prepare(model, checkpoint=str(tmp_path / name))


def test_a_batch_is_one_edit_or_several_and_scale_multiplies_it(tmp_path) -> None:
    model = tiny_model("llama")
    train("mend", model, FACTS, tmp_path, settings=SETTINGS)

    def proposed(facts, **settings):
        editor = MEND(MENDSettings(checkpoint=str(tmp_path), **settings))
        editor.prepare(model, StatisticsStore(), Random(0))
        return editor.propose(model, facts)

    whole, half, each = proposed(FACTS[:4]), proposed(FACTS[:4], scale=0.5), proposed(FACTS[:4], batches="each")
    singles = [proposed([fact]) for fact in FACTS[:4]]
    assert set(whole.changes) == {p for i in range(3) for p in (*model.mlp_in(i), model.mlp_out(i))}
    for path, change in whole.changes.items():
        assert half.changes[path].norm() == pytest.approx(0.5 * change.norm(), rel=1e-5)
        ours, joint, expected = (torch.zeros_like(model.weight(path)) for _ in range(3))
        each.changes[path].add_to(ours)
        change.add_to(joint)
        for single in singles:
            single.changes[path].add_to(expected)
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(joint, expected, rtol=1e-3, atol=1e-4)
    tokens = sum(len(p) + len(t) - 1 for p, t in pairs_of(model, FACTS[:4]))
    assert whole.changes[model.mlp_out(0)].right.shape[0] <= tokens
    loss = torch.tensor(whole.diagnostics["loss"])
    assert whole.diagnostics["target_probability"] == pytest.approx((-loss).exp().item())
