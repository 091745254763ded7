"""p-ROME and EMMET keep the equations they promise, and a fact may be looked up at any of the tokens ROME knows."""

from random import Random
from typing import get_args

import pytest
import torch
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.keys import FactToken, at_subject, mean_keys, place
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import SecondMoment, StatisticsStore
from errata.editors.values import ValueSettings, optimise_values
from errata.edits import Fact
from errata.errors import ConfigError, NumericalError
from errata.models import EditableModel
from errata.trajectory import Trajectory
from tiny import tiny_facts, tiny_model

FACTS = tiny_facts(6)
VALUE = {"lr": 0.3, "steps": 4, "weight_decay": 0.01}
CONTEXTS = {"lengths": ((4, 3),)}
LAYER = 1
families = pytest.mark.parametrize("family", ["gpt2", "llama"])


class Given(StatisticsStore):
    """Give a covariance that is far from a multiple of the identity."""

    def second_moments(self, model, layers, source):
        return [SecondMoment(C, len(C)) for C in (covariance(model) for _ in layers)]


def covariance(model: EditableModel) -> Tensor:
    width = model.weight(model.mlp_out(LAYER)).shape[1]
    root = torch.randn(width, 4 * width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    root = root * torch.logspace(-1, 1, width, dtype=torch.float64)[:, None]
    return root @ root.T / (4 * width)


def prepared(name: str, model: EditableModel, **chosen) -> Editor:
    layer = {"layers": (LAYER,)} if name in ("emmet", "memit") else {"layer": LAYER}
    editor = editor_class(name)(
        resolve_settings(
            name, model, {**layer, "value": VALUE, "contexts": CONTEXTS, "ridge": 0.0, "subjects": 0.0, **chosen}
        )
    )
    editor.prepare(model, Given(), Random(0))
    return editor


def delta(model: EditableModel, editor: Editor, facts: list[Fact]) -> tuple[Tensor, dict[str, Tensor]]:
    update = editor.propose(model, facts)
    (change,) = update.changes.values()
    return change.left @ change.right, dict(update.details)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@families
def test_p_rome_sends_the_bare_prompts_key_exactly_to_its_value(family: str) -> None:
    model, path = tiny_model(family, torch.float64), tiny_model(family).mlp_out(LAYER)
    found, details = delta(model, prepared("p-rome", model), FACTS[:1])
    (key,), (output,) = mean_keys(model, path, FACTS[:1], [["{}"]])
    assert distance(output + found @ key, details["values"][0]) < 1e-9
    inverse = torch.linalg.inv(covariance(model))
    expected = torch.outer(details["values"][0] - output, inverse @ key) / (key @ inverse @ key)
    assert distance(found, expected) < 1e-8
    r_rome, _ = delta(model, prepared("r-rome", model), FACTS[:1])
    assert distance(found, r_rome) > 0.01
    # v* is optimised under all contexts by both.
    assert torch.equal(details["values"], delta(model, prepared("r-rome", model), FACTS[:1])[1]["values"])


@families
def test_emmet_without_alpha_meets_its_constraint_with_the_least_change_of_what_is_preserved(family: str) -> None:
    model, path = tiny_model(family, torch.float64), tiny_model(family).mlp_out(LAYER)
    editor = prepared("emmet", model, alpha=0.0)
    found, details = delta(model, editor, FACTS)
    K = details[f"keys|{path}"].double().T
    reached = torch.stack([at(model, model.block_path(LAYER), fact) for fact in FACTS])
    assert distance(found @ K, (details["values"] - reached).T) < 1e-6
    # tr ΔCΔᵀ is least under ΔK = R just where ΔC is a combination of the keys.
    gradient = found @ covariance(model)
    combination = torch.linalg.lstsq(K, gradient.T).solution
    assert distance(K @ combination, gradient.T) < 1e-6


def at(model: EditableModel, path: str, fact: Fact) -> Tensor:
    """Return a module's output at the subject's last token of the bare prompt."""
    return mean_keys(model, path, [fact], [["{}"]])[1][0]


@families
def test_emmet_goes_from_the_constraint_to_memit(family: str) -> None:
    model = tiny_model(family, torch.float64)
    weight = {"covariance_weight": 3.0}
    memit, _ = delta(model, prepared("memit", model, **weight), FACTS[:3])
    emmet, _ = delta(model, prepared("emmet", model, **weight, alpha=1.0), FACTS[:3])
    assert distance(emmet, memit) < 1e-9
    assert distance(delta(model, prepared("emmet", model, **weight, alpha=0.0), FACTS[:3])[0], memit) > 0.005
    # One fact has the constraint whatever alpha, as in the published code; without alpha the weight does not matter.
    single = [delta(model, prepared("emmet", model, alpha=a), FACTS[:1])[0] for a in (0.0, 0.1)]
    assert torch.equal(*single)
    heavier = delta(model, prepared("emmet", model, covariance_weight=50.0, alpha=0.0), FACTS[:3])[0]
    assert distance(heavier, delta(model, prepared("emmet", model, **weight, alpha=0.0), FACTS[:3])[0]) < 1e-6


def test_facts_that_contradict_one_another_need_alpha_and_leave_the_model_alone() -> None:
    model = tiny_model("gpt2", torch.float64)
    pair = [Fact(subject="Ada Abend", prompt="{} speaks", target_new=o, id=o) for o in ("Greek", "Hindi")]
    bare = {"contexts": {"lengths": ()}}
    with pytest.raises(NumericalError, match="alpha"):
        prepared("emmet", model, alpha=0.0, **bare).propose(model, pair)
    assert all(torch.isfinite(t).all() for t in delta(model, prepared("emmet", model, **bare), pair)[1].values())
    before = model.weight(model.mlp_out(LAYER)).clone()
    entries = Trajectory(model, prepared("emmet", model, alpha=0.0, **bare)).advance(pair)
    assert [e.status for e in entries] == ["failed", "failed"]
    assert torch.equal(model.weight(model.mlp_out(LAYER)), before)


def test_emmet_edits_one_layer_where_nothing_is_published() -> None:
    model = tiny_model("gpt2")
    assert len(resolve_settings("emmet", model).layers) == 1
    assert len(resolve_settings("memit", model).layers) > 1


@families
def test_each_fact_token_is_where_its_name_says(family: str) -> None:
    model = tiny_model(family)
    fact = Fact(subject="Dmitri Dvorak", prompt="The mother tongue of {} is", target_new="Greek")
    ids, last = place(model, fact, "Water. {}")
    text = {token: place(model, fact, "Water. {}", token=token) for token in get_args(FactToken)}
    assert all(found == ids for found, _ in text.values())
    upto = {token: model.tokenizer.decode(ids[: position + 1]) for token, (_, position) in text.items()}
    assert upto["subject_last"].endswith("tongue of Dmitri Dvorak")
    assert upto["subject_first_after_last"].startswith(upto["subject_last"])
    assert text["subject_first_after_last"][1] == last + 1
    before = model.tokenizer.decode(ids[: text["subject_first"][1]])
    assert before.endswith("tongue of")
    assert upto["last"].endswith(" is")
    assert text["last"][1] == len(ids) - 1

    ends = Fact(subject="Dmitri Dvorak", prompt="The mother tongue of {}", target_new="Greek")
    assert place(model, ends, token="subject_first_after_last") == place(model, ends)


@families
@pytest.mark.parametrize("name", ["rome", "r-rome"])
@pytest.mark.parametrize("token", get_args(FactToken))
def test_an_edit_at_any_token_gives_the_key_there_its_value(name: str, token: FactToken, family: str) -> None:
    model = tiny_model(family, torch.float64)
    path, fact = model.mlp_out(LAYER), Fact(subject="Ada Abend", prompt="These days {} speaks", target_new="Greek")
    editor = prepared(name, model, fact_token=token)
    found, details = delta(model, editor, [fact])
    groups = [["{}"]] if name == "rome" else [[t] for t in editor.state_dict()["templates"]]
    (key,), (output,) = mean_keys(model, path, [fact], groups, token)
    assert distance(output + found @ key, details["values"][0]) < 1e-8
    if token != "subject_last":
        assert distance(found, delta(model, prepared(name, model), [fact])[0]) > 0.01


@families
@pytest.mark.parametrize("token", [t for t in get_args(FactToken) if t != "last_padded"])
def test_a_value_at_any_token_makes_the_object_likelier(token: FactToken, family: str) -> None:
    model = tiny_model(family, torch.float64)
    fact = Fact(subject="Ada Abend", prompt="These days {} speaks", target_new="Greek")
    settings = ValueSettings(lr=0.1, steps=20, weight_decay=0.0, clamp_norm_factor=20)
    losses = optimise_values(model, [fact], LAYER, "mlp", ["{}", "Water. {}"], settings, token=token)[0].losses
    assert losses[-1] < losses[0] - 0.05  # a random model hardly looks at the subject


@families
def test_memit_knows_all_tokens_but_the_padded_one(family: str) -> None:
    model = tiny_model(family, torch.float64)
    fact = Fact(subject="Ada Abend", prompt="These days {} speaks", target_new="Greek")
    path = model.mlp_out(LAYER)
    for token in ("subject_first", "subject_first_after_last", "last"):
        editor = prepared("memit", model, fact_token=token, covariance_weight=0.01)
        _, details = delta(model, editor, [fact])
        templates = editor.state_dict()["templates"]
        keys, _ = mean_keys(model, path, [fact], [["{}"], templates], token)
        assert distance(details[f"keys|{path}"], keys) < 1e-12
        assert distance(keys, mean_keys(model, path, [fact], [["{}"], templates])[0]) > 0.01
    with pytest.raises(ConfigError, match="last_padded"):
        prepared("memit", model, fact_token="last_padded")


@families
def test_the_padded_last_token_is_the_last_where_nothing_is_padded(family: str) -> None:
    model = tiny_model(family, torch.float64)
    target = "water"  # one token, so that no part of it stands behind the prompt
    fact = Fact(subject="Ada Abend", prompt="These days the water of {} is", target_new=target)
    assert len(model.encode_target(target)) == 1
    for contexts, same in (({"lengths": ()}, True), (CONTEXTS, False)):
        # The essence prompt is shorter and is padded: without its term nothing is.
        chosen = {"contexts": contexts, "value": {**VALUE, "kl_factor": 0.0}}
        padded, last = (
            delta(model, prepared("r-rome", model, fact_token=t, **chosen), [fact])[0] for t in ("last_padded", "last")
        )
        assert (distance(padded, last) < 1e-9) is same


def test_means_of_half_precision_keys_are_not_rounded_to_it() -> None:
    model = tiny_model("gpt2", torch.bfloat16)
    path, templates = model.mlp_out(1), ["{}", "Every tree. {}", "Old houses near water. {}"]
    keys, _ = at_subject(model, path, [place(model, FACTS[0], t) for t in templates])
    (mean,), _ = mean_keys(model, path, FACTS[:1], [[t] for t in templates])
    assert torch.equal(mean, keys.float().mean(0))
    assert not torch.equal(mean, mean.bfloat16().float())


def test_a_batch_s_diagnostics_show_the_fact_nearest_to_disabling_and_emmet_s_constraint() -> None:
    model = tiny_model("gpt2", torch.float64)
    path = model.mlp_out(LAYER)
    update = prepared("rome", model).propose(model, FACTS[:3])
    divisors = (update.details[f"divisors|{path}"].double() * update.changes[path].right).sum(1)
    assert update.diagnostics["divisor"] == pytest.approx(float(divisors[divisors.abs().argmin()]))
    assert len({round(float(d), 6) for d in divisors}) == 3

    editor = prepared("emmet", model, covariance_weight=3.0, alpha=0.2)
    for batch in (FACTS[:3], FACTS[:1]):
        update = editor.propose(model, batch)
        K = update.details[f"keys|{path}"].double().T
        D = K.T @ torch.linalg.solve(3.0 * covariance(model), K) + 0.2 * torch.eye(len(batch)) * (len(batch) > 1)
        assert update.diagnostics["constraint_condition"] == pytest.approx(float(torch.linalg.cond(D)), rel=1e-6)
