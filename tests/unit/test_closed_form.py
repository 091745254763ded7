"""Every closed form equals its equation written out densely, and FT-C keeps its bounds."""

from random import Random

import pytest
import torch
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import SecondMoment, StatisticsStore
from errata.editors.values import optimise_values
from errata.edits import Fact
from errata.models import EditableModel
from errata.trajectory import Trajectory, Update
from tiny import tiny_facts, tiny_model

FACTS = tiny_facts(6)
VALUE = {"lr": 0.3, "steps": 4, "weight_decay": 0.01}
CLOSED_FORM = {
    "rome": {"layer": 1, "value": VALUE, "contexts": {"lengths": ((4, 3),)}},
    "r-rome": {"layer": 1, "value": VALUE, "contexts": {"lengths": ((4, 3),)}},
    "memit": {"layers": (0, 1, 2), "value": VALUE, "contexts": {"lengths": ((4, 3),)}, "covariance_weight": 3.0},
    "memit-history": {"layers": (0, 1), "value": VALUE, "contexts": {"lengths": ((4, 3),)}, "covariance_weight": 3.0},
}
families = pytest.mark.parametrize("family", ["gpt2", "llama"])


class Given(StatisticsStore):
    """Give a covariance for each layer that is far from a multiple of the identity."""

    def second_moments(self, model, layers, source):
        return [SecondMoment(C, len(C)) for C in (covariance(model, layer) for layer in layers)]


def covariance(model: EditableModel, layer: int) -> Tensor:
    width = model.weight(model.mlp_out(layer)).shape[1]
    root = torch.randn(width, 4 * width, generator=torch.Generator().manual_seed(layer), dtype=torch.float64)
    root = root * torch.logspace(-1, 1, width, dtype=torch.float64)[:, None]
    return root @ root.T / (4 * width)


def prepared(name: str, model: EditableModel, **chosen) -> Editor:
    editor = editor_class(name)(resolve_settings(name, model, {"subjects": 0.0} | CLOSED_FORM[name] | chosen))
    editor.prepare(model, Given(), Random(0))
    return editor


def inside(model: EditableModel, path: str, fact: Fact, template: str) -> tuple[Tensor, Tensor]:
    """Return input and output of a module at the subject's last token of one prompt, run alone."""
    text = template.replace("{}", fact.prompt)
    ids, upto = model.encode([text.replace("{}", fact.subject), text.split("{}")[0] + fact.subject])
    seen = []

    def keep(_module, args, output):
        hidden = output if isinstance(output, Tensor) else output[0]
        seen.append((args[0][0, len(upto) - 1], hidden[0, len(upto) - 1]))

    handle = model.module(path).register_forward_hook(keep)
    with torch.no_grad():
        model.model(torch.tensor([ids]))
    handle.remove()
    return seen[0]


def mean_key(model: EditableModel, path: str, fact: Fact, templates: list[str]) -> Tensor:
    return torch.stack([inside(model, path, fact, t)[0] for t in templates]).mean(0)


def matrix(update: Update, path: str) -> Tensor:
    change = update.changes[path]
    return change.left @ change.right


def bias(model: EditableModel, path: str) -> Tensor | float:
    held = model.module(path).bias
    return 0.0 if held is None else held


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def rome_parts(model: EditableModel, editor: Editor, fact: Fact) -> tuple[str, Tensor, Tensor, Tensor]:
    """Return the edited path, v*, the averaged key and the bare prompt's key."""
    s, path = editor.settings, model.mlp_out(editor.settings.layer)
    templates = editor.state_dict()["templates"]
    assert templates[0] == "{}"
    v = optimise_values(model, [fact], s.layer, "mlp", templates, s.value)[0].vector
    return path, v, mean_key(model, path, fact, templates), inside(model, path, fact, "{}")[0]


@families
@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("use_covariance", [True, False])
def test_rome_equals_its_equation_with_mixed_keys(family: str, ridge: float, use_covariance: bool) -> None:
    model = tiny_model(family, torch.float64)
    editor = prepared("rome", model, ridge=ridge, use_covariance=use_covariance)
    path, v, averaged, bare = rome_parts(model, editor, FACTS[0])
    C = covariance(model, 1)
    C = C + ridge * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)
    inverse = torch.linalg.inv(C) if use_covariance else torch.eye(len(C), dtype=C.dtype)
    residual = v - (model.weight(path) @ bare + bias(model, path))
    expected = torch.outer(residual, inverse @ averaged) / (averaged @ inverse @ bare)
    update = editor.propose(model, FACTS[:1])
    assert list(update.changes) == [path]
    found = matrix(update, path)
    assert distance(found, expected) < 1e-8
    # What the mixed keys do give exactly: the bare prompt's key is sent to v*.
    assert distance((model.weight(path) + found) @ bare + bias(model, path), v) < 1e-8
    assert distance((model.weight(path) + found) @ averaged + bias(model, path), v) > 1e-3


@families
def test_r_rome_sends_the_averaged_key_exactly_to_its_value(family: str) -> None:
    model = tiny_model(family, torch.float64)
    editor = prepared("r-rome", model, ridge=0.0)
    path, v, averaged, bare = rome_parts(model, editor, FACTS[0])
    found = matrix(editor.propose(model, FACTS[:1]), path)
    assert distance((model.weight(path) + found) @ averaged + bias(model, path), v) < 1e-9
    assert distance((model.weight(path) + found) @ bare + bias(model, path), v) > 1e-3
    inverse = torch.linalg.inv(covariance(model, 1))
    residual = v - (model.weight(path) @ averaged + bias(model, path))
    assert distance(found, torch.outer(residual, inverse @ averaged) / (averaged @ inverse @ averaged)) < 1e-8


@families
def test_rome_and_r_rome_differ_by_their_contexts_alone(family: str) -> None:
    model = tiny_model(family, torch.float64)
    path = model.mlp_out(1)
    for contexts, differ in (({"lengths": ((4, 3),)}, True), ({"lengths": ()}, False)):
        rome, r_rome = (
            matrix(prepared(name, model, contexts=contexts).propose(model, FACTS[:1]), path)
            for name in ("rome", "r-rome")
        )
        assert (distance(rome, r_rome) > 0.01) is differ
        assert (distance(rome, r_rome) < 1e-9) is not differ


@families
@pytest.mark.parametrize("name", ["rome", "r-rome"])
def test_without_a_covariance_the_update_lies_along_the_averaged_key(name: str, family: str) -> None:
    model = tiny_model(family, torch.float64)
    for use_covariance in (False, True):
        editor = prepared(name, model, use_covariance=use_covariance)
        path, _, averaged, _ = rome_parts(model, editor, FACTS[0])
        rows = matrix(editor.propose(model, FACTS[:1]), path)
        cosines = torch.nn.functional.cosine_similarity(rows, averaged[None], dim=1).abs()
        assert bool((cosines > 1 - 1e-12).all()) is not use_covariance


@pytest.mark.parametrize("name", ["rome", "r-rome"])
def test_a_batch_is_taken_fact_by_fact_each_on_top_of_those_before(name: str) -> None:
    model, other = (tiny_model("gpt2", torch.float64) for _ in range(2))
    path = model.mlp_out(1)
    together = matrix(prepared(name, model).propose(model, FACTS[:3]), path)
    before = other.weight(path).clone()
    trajectory = Trajectory(other, prepared(name, other))
    for fact in FACTS[:3]:
        trajectory.advance([fact])
    assert distance(together, other.weight(path) - before) < 1e-9
    alone = sum(matrix(prepared(name, model).propose(model, [fact]), path) for fact in FACTS[:3])
    assert distance(together, alone) > 1e-4


def dense_memit(
    model: EditableModel, editor: Editor, batch: list[Fact], past: dict[str, Tensor], flat: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Solve MEMIT's normal equations layer by layer, writing each change into the model; return changes and keys.

    Args:
        model: is changed.
        editor: a prepared editor of such a model, for its settings and prefixes.
        batch: the facts.
        past: keys of earlier batches for each path, one a column.
        flat: average keys over all prompts alike, as MEMIT's code does not.
    """
    s, templates = editor.settings, editor.state_dict()["templates"]
    top = s.layers[-1]
    values = [v.vector for v in optimise_values(model, batch, top, "block", ["{}", *templates], s.value)]
    changes, keys = {}, {}
    for i, layer in enumerate(s.layers):
        path = model.mlp_out(layer)
        columns = []
        for fact in batch:
            bare, prefixed = (mean_key(model, path, fact, group) for group in (["{}"], templates))
            columns.append(mean_key(model, path, fact, ["{}", *templates]) if flat else (bare + prefixed) / 2)
        K = torch.stack(columns, 1)
        reached = [inside(model, model.block_path(top), fact, "{}")[1] for fact in batch]
        R = torch.stack([z - h for z, h in zip(values, reached, strict=True)], 1) / (len(s.layers) - i)
        C = covariance(model, layer)
        C = C + s.ridge * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)
        A = s.covariance_weight * C + K @ K.T
        if path in past:
            A = A + past[path] @ past[path].T
        changes[path], keys[path] = R @ K.T @ torch.linalg.inv(A), K
        model.write(path, model.weight(path) + changes[path])
    return changes, keys


@families
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_memit_equals_the_normal_equations_layer_by_layer(family: str, ridge: float) -> None:
    model = tiny_model(family, torch.float64)
    editor = prepared("memit", model, ridge=ridge)
    update = editor.propose(model, FACTS[:4])
    expected, _ = dense_memit(tiny_model(family, torch.float64), editor, FACTS[:4], {})
    assert list(update.changes) == list(expected) == [model.mlp_out(i) for i in (0, 1, 2)]
    for path, change in expected.items():
        assert distance(matrix(update, path), change) < 1e-7, path


@families
def test_memit_gives_the_bare_prompt_the_weight_of_all_prefixes_together(family: str) -> None:
    model = tiny_model(family, torch.float64)
    editor = prepared("memit", model, layers=(1,))
    found = matrix(editor.propose(model, FACTS[:2]), model.mlp_out(1))
    for flat, least, most in ((False, 0.0, 1e-7), (True, 1e-3, 10.0)):
        (expected,) = dense_memit(tiny_model(family, torch.float64), editor, FACTS[:2], {}, flat)[0].values()
        assert least <= distance(found, expected) < most


@families
def test_memit_history_weighs_the_keys_of_earlier_batches(family: str) -> None:
    model, dense = tiny_model(family, torch.float64), tiny_model(family, torch.float64)
    editor = prepared("memit-history", model)
    trajectory = Trajectory(model, editor)
    past: dict[str, Tensor] = {}
    batches = (FACTS[:3], FACTS[3:5], FACTS[5:6])
    for batch in batches:
        update = trajectory.propose(batch)
        forgetful = tiny_model(family, torch.float64)
        for path in past:
            forgetful.write(path, model.weight(path))
        without, _ = dense_memit(forgetful, editor, batch, {})
        changes, keys = dense_memit(dense, editor, batch, past)
        for path, change in changes.items():
            assert distance(matrix(update, path), change) < 1e-7, path
            assert (distance(without[path], change) > 1e-3) is bool(past)
        trajectory.advance(batch)
        past = {path: torch.cat([past[path], k], 1) if path in past else k for path, k in keys.items()}


def test_only_what_was_applied_is_remembered() -> None:
    model = tiny_model("gpt2", torch.float64)
    editor = prepared("memit-history", model)
    editor.propose(model, FACTS[:3])
    fresh = prepared("memit-history", model)
    for path in (model.mlp_out(0), model.mlp_out(1)):
        assert len(editor.state_dict()[f"past|{path}|keys"]) == 0
        found, expected = (matrix(e.propose(model, FACTS[3:4]), path) for e in (editor, fresh))
        assert torch.equal(found, expected)


def ft_c(model: EditableModel, **chosen) -> Editor:
    settings = {"layer": 1, "lr": 0.01, "epsilon": 0.004, "steps": 5, "loss_stop": 0.0, "bias": False}
    return editor_class("ft-c")(resolve_settings("ft-c", model, settings | chosen))


def moved(model: EditableModel, fact: Fact, **chosen) -> tuple[Tensor, float]:
    update = ft_c(model, **chosen).propose(model, [fact])
    (change,) = update.changes.values()
    return change.matrix, update.diagnostics["loss"]


@families
@pytest.mark.parametrize("epsilon", [0.004, 0.02])
def test_ft_c_moves_no_weight_further_than_epsilon_and_some_that_far(family: str, epsilon: float) -> None:
    model = tiny_model(family, torch.float64)
    trajectory = Trajectory(model, ft_c(model, epsilon=epsilon))
    path = model.mlp_out(1)
    for fact in FACTS[:2]:
        before = model.weight(path).clone()
        trajectory.advance([fact])
        far = (model.weight(path) - before).abs()
        assert float(far.max()) <= epsilon * (1 + 1e-9)
        assert int((far > epsilon * (1 - 1e-9)).sum()) > 10
    assert float(moved(tiny_model(family, torch.float64), FACTS[0], epsilon=1e9)[0].abs().max()) > 1.5 * epsilon


def test_ft_c_stops_once_the_loss_is_low_enough() -> None:
    model = tiny_model("gpt2", torch.float64)
    steps = {n: moved(model, FACTS[0], steps=n) for n in range(1, 7)}
    losses = [loss for _, loss in steps.values()]
    assert losses == sorted(losses, reverse=True)
    stop = (losses[2] + losses[3]) / 2
    stopped, loss = moved(model, FACTS[0], steps=6, loss_stop=stop)
    # The fourth evaluation is the first below: three steps have been taken.
    assert loss == losses[3]
    assert torch.equal(stopped, steps[3][0])
    assert float(moved(model, FACTS[0], loss_stop=1e9)[0].abs().max()) == 0


@families
def test_ft_c_scores_targets_where_its_setting_says(family: str) -> None:
    model = tiny_model(family, torch.float64)
    two = Fact(subject="Ada Abend", prompt="{} was born in", target_new="green music")
    (prompt,), target = model.encode([two.text]), model.encode_target(two.target_new)
    assert len(target) == 2
    with torch.no_grad():
        log_probs = torch.log_softmax(model.model(torch.tensor([prompt + target[:1]])).logits[0], -1)
    end = len(prompt) - 1
    expected = {
        "last-position": -(log_probs[end, target[0]] + log_probs[end, target[1]]) / 2,
        "teacher-forced": -(log_probs[end, target[0]] + log_probs[end + 1, target[1]]) / 2,
    }
    found = {kind: moved(model, two, targets=kind, steps=1) for kind in expected}
    for kind, loss in expected.items():
        assert found[kind][1] == pytest.approx(float(loss), rel=1e-9)
    assert distance(found["last-position"][0], found["teacher-forced"][0]) > 0.1
    one = Fact(subject="Ada Abend", prompt="{} was born in", target_new="green")
    assert len(model.encode_target(one.target_new)) == 1
    assert torch.equal(*(moved(model, one, targets=kind)[0] for kind in expected))


@pytest.mark.parametrize("name", ["rome", "memit"])
def test_the_fast_mode_optimises_under_two_prefixes_until_shortly_after_the_object_is_foremost(name: str) -> None:
    model = tiny_model("gpt2", torch.float64)
    editor, exact = prepared(name, model, fast=True), prepared(name, model)
    assert editor.state_dict()["templates"] == exact.state_dict()["templates"], "keys are those of all prefixes"
    value = editor.settings.value.model_copy(update={"stop": "most-probable", "stop_contexts": "all", "steps_after": 6})
    templates = [t for t in editor.state_dict()["templates"] if t != "{}"]
    assert len(templates) > 2
    layer, site = (1, "mlp") if name == "rome" else (2, "block")
    expected = optimise_values(model, FACTS[:1], layer, site, ["{}", *templates[:2]], value)[0].vector
    found = editor.propose(model, FACTS[:1]).details["values"][0]
    assert torch.equal(found, expected)
    assert not torch.equal(found, exact.propose(model, FACTS[:1]).details["values"][0])
