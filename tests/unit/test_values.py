"""The value optimisation: every term, bound and stop does what it is there for, and the whole equals a plain one."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from errata.editors import values
from errata.editors.values import TargetValue, ValueSettings, optimise_components, optimise_values
from errata.edits import Fact
from errata.models import EditableModel
from tiny import FAMILIES, FLOAT32_INSIDE, tiny_model

LAYER = 1
TEMPLATES = (
    "{}",
    "Because. {}",
    "The old houses stand near water. {}",
    "Therefore many people walk there each day while children play. {}",
)
FACTS = {
    # Without a beginning-of-text token the subject is the very first token of the bare prompt.
    "first": Fact(subject="children", prompt="{} was born in", target_new="music"),
    "middle": Fact(subject="Ada Abend", prompt="The birth town of {} is", target_new="Wolverhampton"),
    "end": Fact(subject="Boris Bell", prompt="These days one speaks of {}", target_new="Greek Welsh"),
}
TOLERANCE = {family: 10 * error for family, error in FLOAT32_INSIDE.items()}


def settings(**chosen) -> ValueSettings:
    quiet = {"lr": 0.1, "steps": 8, "weight_decay": 0.0, "kl_factor": 0.0, "loss_stop": 0.0, "clamp_norm_factor": 100.0}
    return ValueSettings(**{**quiet, **chosen})


def optimised(model: EditableModel, site: str = "mlp", fact: str = "middle", **chosen) -> TargetValue:
    return optimise_values(model, [FACTS[fact]], LAYER, site, TEMPLATES, settings(**chosen))[0]


def delta_of(value: TargetValue) -> Tensor:
    return value.vector - value.initial


class AddAt:
    """Add δ to a module's output at one position while the block lasts, and keep what the module had returned there."""

    def __init__(self, model: EditableModel, site: str, position: int, delta: Tensor | None) -> None:
        path = model.block_path(LAYER)
        self.module = model.module(f"{path}.{model.family.mlp}" if site == "mlp" else path)
        self.position, self.delta = position, delta
        self.before: Tensor | None = None

    def _hook(self, _module, _args, output):
        hidden = output if isinstance(output, Tensor) else output[0]
        self.before = hidden[0, self.position].detach().clone()
        if self.delta is None:
            return output
        added = torch.zeros_like(hidden)
        added[0, self.position] = 1
        changed = hidden + added * self.delta
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    def __enter__(self):
        self._handle = self.module.register_forward_hook(self._hook)
        return self

    def __exit__(self, *_):
        self._handle.remove()


def log_probs(model: EditableModel, ids: list[int]) -> Tensor:
    return torch.log_softmax(model.model(torch.tensor([ids])).logits[0], -1)


def placed(model: EditableModel, template: str, fact: Fact, prompt: str) -> tuple[list[int], int]:
    """Return a prompt's ids and its subject's last token, counted from the text that ends with the subject."""
    text = template.replace("{}", prompt)
    ids, upto = model.encode([text.replace("{}", fact.subject), text.split("{}")[0] + fact.subject])
    assert ids[: len(upto)] == upto
    return ids, len(upto) - 1


def divergence(model: EditableModel, site: str, fact: Fact, delta: Tensor, position: str) -> float:
    """Return KL(edited ‖ original) of what follows "{subject} is a", by the model itself."""
    ids, at = placed(model, "{}", fact, "{} is a")
    read = at if position == "subject" else len(ids) - 1
    with torch.no_grad():
        before = log_probs(model, ids)[read]
        with AddAt(model, site, at, delta):
            after = log_probs(model, ids)[read]
    return float((after.exp() * (after - before)).sum())


def reference(
    model: EditableModel, fact: Fact, site: str, s: ValueSettings, templates: tuple[str, ...] = TEMPLATES
) -> tuple[Tensor, list[float]]:
    """Optimise as the papers say, one prompt after another, every one through the whole model at every step."""
    normed = model.family.mlp_norm is not None
    prompts = [placed(model, t, fact, fact.prompt) for t in templates]
    essence, essence_at = placed(model, "{}", fact, "{} is a")
    essence_read = essence_at if s.kl_position == "subject" else len(essence) - 1
    target = model.encode_target(fact.target_new)
    with torch.no_grad():
        with AddAt(model, site, prompts[0][1], None) as bare:
            log_probs(model, prompts[0][0])
        initial = bare.before
        # Where a norm follows W, no change of W moves the block's output by δ itself.
        site, wanted_site = "mlp" if normed else site, site
        with AddAt(model, site, prompts[0][1], None) as acted:
            log_probs(model, prompts[0][0])
        measure = acted.before
        essence_before = log_probs(model, essence)[essence_read]
    delta = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=s.lr)
    losses, weight, times = [], 1.0, 0
    for step in range(s.steps):
        nll, said = [], []
        for ids, at in prompts:
            with AddAt(model, site, at, delta):
                predicted = log_probs(model, ids + target)
            nll.append(-sum(predicted[len(ids) - 1 + j, t] for j, t in enumerate(target)) / len(target))
            said.append(predicted[len(ids) - 1 : -1].argmax(-1).tolist() == target)
        with AddAt(model, site, essence_at, delta):
            after = log_probs(model, essence)[essence_read]
        kl = (after.exp() * (after - essence_before)).sum()
        decay = delta.norm() / measure.norm() ** 2
        loss = weight * sum(nll) / len(nll) + s.kl_factor * kl + s.weight_decay * decay
        losses.append(loss.item())
        if losses[-1] < s.loss_stop or step == s.steps - 1:
            break
        foremost = all(said[1:] if s.stop_contexts == "prefixed" else said)
        times += foremost
        if s.stop == "most-probable" and times == s.steps_after + 1:
            break
        if s.stop == "kl":
            if foremost and s.kl_factor * kl < s.kl_stop:
                break
            weight = 0.1 if foremost else 1.0
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            if delta.norm() > s.clamp_norm_factor * measure.norm():
                delta *= s.clamp_norm_factor * measure.norm() / delta.norm()
    with (
        torch.no_grad(),
        AddAt(model, site, prompts[0][1], delta),
        AddAt(model, wanted_site, prompts[0][1], None) as at,
    ):
        log_probs(model, prompts[0][0])
    if site != wanted_site:
        return at.before.detach(), losses
    vector = (initial + delta).detach()
    # ROME's v* behind a norm keeps the length of v.
    return vector * initial.norm() / vector.norm() if normed else vector, losses


CASES = [
    ("first", "mlp", "subject", 100.0),
    ("middle", "block", "subject", 100.0),
    ("first", "block", "end", 0.2),
    ("middle", "mlp", "end", 0.5),
    ("end", "mlp", "subject", 100.0),
    ("end", "block", "end", 100.0),
]


@pytest.mark.parametrize(
    ("family", "fact", "site", "kl_position", "clamp"),
    [(f, *case) for f in FAMILIES for case in (CASES if f in ("gpt2", "llama", "gemma2") else CASES[:3])],
)
def test_the_vector_equals_a_plain_implementation(family, fact, site, kl_position, clamp) -> None:
    model = tiny_model(family, torch.float64)
    s = settings(weight_decay=0.3, kl_factor=0.7, kl_position=kl_position, clamp_norm_factor=clamp, steps=6)
    found = optimise_values(model, [FACTS[fact]], LAYER, site, TEMPLATES, s)[0]
    vector, losses = reference(model, FACTS[fact], site, s)
    tolerance = TOLERANCE.get(family, 1e-8)
    assert found.losses == pytest.approx(losses, rel=tolerance)
    assert float((found.vector - vector).norm() / vector.norm()) < tolerance
    assert float((found.vector - vector).norm() / delta_of(found).norm()) < tolerance


def test_the_facts_are_what_the_comparison_needs() -> None:
    model = tiny_model("gpt2")
    at = {name: placed(model, "{}", fact, fact.prompt) for name, fact in FACTS.items()}
    assert at["first"][1] == 0
    assert at["end"][1] == len(at["end"][0]) - 1
    assert 0 < at["middle"][1] < len(at["middle"][0]) - 1
    assert len(model.encode_target(FACTS["first"].target_new)) == 1
    assert all(len(model.encode_target(FACTS[name].target_new)) > 1 for name in ("middle", "end"))
    assert len({len(ids) for ids in model.encode(TEMPLATES)}) == len(TEMPLATES)


@pytest.mark.parametrize("site", ["mlp", "block"])
@pytest.mark.parametrize("clamp", [0.25, 0.75])
def test_delta_grows_to_the_clamp_and_no_further(site: str, clamp: float) -> None:
    model = tiny_model("gpt2", torch.float64)
    free = optimised(model, site, lr=1.0)
    limit = clamp * float(free.initial.norm())
    assert float(delta_of(free).norm()) > 1.2 * limit
    held = optimised(model, site, lr=1.0, clamp_norm_factor=clamp)
    assert float(delta_of(held).norm()) == pytest.approx(limit, rel=1e-12)


# Small steps, many of them: Adam has settled when factors are compared.
SETTLED = {"lr": 0.02, "steps": 40}


def essence(model: EditableModel, read: str, **chosen) -> float:
    """Return the divergence after "{subject} is a", read at one position, that an optimised vector causes."""
    delta = delta_of(optimised(model, "block", **SETTLED, **chosen))
    return divergence(model, "block", FACTS["middle"], delta, read)


@pytest.mark.parametrize("position", ["subject", "end"])
def test_a_larger_kl_factor_keeps_the_prediction_nearer_at_its_position(position: str) -> None:
    model = tiny_model("gpt2", torch.float64)
    kl = [essence(model, position, kl_factor=factor, kl_position=position) for factor in (0.0, 1.0, 10.0)]
    assert kl[0] > 1.2 * kl[1]
    assert kl[1] > 1.2 * kl[2] > 0


def test_a_kl_term_at_the_end_leaves_the_subject_freer() -> None:
    model = tiny_model("llama", torch.float64)
    kl = {where: essence(model, "subject", kl_factor=10.0, kl_position=where) for where in ("subject", "end")}
    assert kl["end"] > 10 * kl["subject"]


def test_a_larger_weight_decay_gives_a_shorter_delta() -> None:
    model = tiny_model("llama", torch.float64)
    norms = [float(delta_of(optimised(model, **SETTLED, weight_decay=w)).norm()) for w in (0.0, 1.0, 2.0)]
    assert norms[0] > 1.1 * norms[1]
    assert norms[1] > 1.1 * norms[2]


def test_the_first_loss_is_of_the_unedited_model_and_the_last_of_the_vector_returned() -> None:
    model, fact = tiny_model("gpt2", torch.float64), FACTS["middle"]
    value = optimised(model, "block")
    target = model.encode_target(fact.target_new)

    def nlls(delta: Tensor) -> Tensor:
        out = []
        for template in TEMPLATES:
            ids, at = placed(model, template, fact, fact.prompt)
            with torch.no_grad(), AddAt(model, "block", at, delta):
                predicted = log_probs(model, ids + target[:-1])[len(ids) - 1 :]
            out.append(-predicted[torch.arange(len(target)), target].mean())
        return torch.stack(out)

    last = nlls(delta_of(value))
    assert value.losses[0] == pytest.approx(float(nlls(torch.zeros_like(value.initial)).mean()), rel=1e-9)
    assert value.losses[-1] == pytest.approx(float(last.mean()), rel=1e-9)
    assert value.probability == pytest.approx(float(torch.exp(-last).mean()), rel=1e-9)
    assert value.losses[-1] < value.losses[0]


def test_the_loss_is_evaluated_steps_times_unless_it_falls_below_loss_stop() -> None:
    model = tiny_model("gpt2", torch.float64)
    whole = optimised(model, steps=12)
    assert len(whole.losses) == 12
    stop = (whole.losses[4] + whole.losses[5]) / 2
    expected = next(i for i, loss in enumerate(whole.losses) if loss < stop) + 1
    assert expected < 12
    early = optimised(model, steps=12, loss_stop=stop)
    assert early.losses == whole.losses[:expected]
    assert torch.equal(early.vector, optimised(model, steps=expected).vector)
    untouched = optimised(model, loss_stop=1e9)
    assert len(untouched.losses) == 1
    assert torch.equal(untouched.vector, untouched.initial)


# With the subject at the end, δ alone says what follows; under seed 2 the bare prompt is the hardest context.
SAYABLE = Fact(subject="Boris Bell", prompt="These days one speaks of {}", target_new="music")
STOPS = {
    "all": {"stop": "most-probable"},
    "prefixed": {"stop": "most-probable", "stop_contexts": "prefixed"},
    "later": {"stop": "most-probable", "steps_after": 3},
    "kl": {"stop": "kl", "kl_factor": 0.5, "kl_stop": 0.4},
    "never": {"stop": "kl", "kl_factor": 0.5, "kl_stop": 0.0, "steps": 25},
}


@pytest.fixture(scope="module")
def stopped() -> dict[str, tuple[TargetValue, tuple[Tensor, list[float]]]]:
    model, out = tiny_model("gpt2", torch.float64, seed=2), {}
    for name, chosen in STOPS.items():
        s = settings(**{"lr": 0.3, "steps": 40, **chosen})
        found = optimise_values(model, [SAYABLE], LAYER, "block", TEMPLATES[:2], s)[0]
        out[name] = found, reference(model, SAYABLE, "block", s, TEMPLATES[:2])
    return out


@pytest.mark.parametrize("name", STOPS)
def test_the_optimisation_stops_where_a_plain_implementation_does(name, stopped) -> None:
    found, (vector, losses) = stopped[name]
    assert len(found.losses) == len(losses) == (25 if name == "never" else min(len(losses), 39))
    assert found.losses == pytest.approx(losses, rel=1e-8)
    assert float((found.vector - vector).norm() / vector.norm()) < 1e-8


def test_the_stops_are_told_apart(stopped) -> None:
    n = {name: len(found.losses) for name, (found, _) in stopped.items()}
    assert 1 < n["prefixed"] < n["all"]
    assert n["later"] == n["all"] + 3
    assert n["kl"] > n["all"], "the object is foremost first; then its essence recovers"
    losses = stopped["never"][0].losses
    assert min(b / a for a, b in itertools.pairwise(losses)) < 0.6, "from there on the object weighs a tenth"


def test_without_prefixes_the_bare_prompt_is_the_one_that_counts() -> None:
    model = tiny_model("gpt2", torch.float64, seed=2)
    s = settings(lr=0.3, steps=40, stop="most-probable", stop_contexts="prefixed")
    assert 1 < len(optimise_values(model, [SAYABLE], LAYER, "block", ("{}",), s)[0].losses) < 40


def batch() -> list[Fact]:
    """Return facts whose prompts, subjects and objects differ in length, the subject first, inside and last."""
    return [*FACTS.values(), Fact(subject="Greta Holm", prompt="{} works as a", target_new="tailor")]


def alone(model: EditableModel, facts: list[Fact], s: ValueSettings) -> list[TargetValue]:
    return [optimise_values(model, [fact], LAYER, "block", TEMPLATES[:3], s)[0] for fact in facts]


@pytest.mark.parametrize(
    ("family", "tokens"),
    [("gpt2", 1), ("gpt2", 40), ("gpt2", 2048), ("gptj", 2048), ("llama", 40), ("gemma2", 2048), ("mistral", 2048)],
)
def test_a_batch_gives_each_fact_the_value_that_it_has_alone(family, tokens, monkeypatch) -> None:
    model = tiny_model(family, torch.float64)
    monkeypatch.setitem(values._TOKENS, "cpu", tokens)
    chosen = {"lr": 0.3, "steps": 6, "kl_factor": 0.1, "weight_decay": 0.1, "clamp_norm_factor": 2.0}
    ends = sorted(value.losses[-1] for value in alone(model, batch(), settings(**chosen)))
    # At this bound some stop early, and the portion shrinks under those that go on.
    s = settings(**chosen, loss_stop=(ends[1] + ends[2]) / 2)
    singles = alone(model, batch(), s)
    assert len({len(value.losses) for value in singles}) > 1
    found = optimise_values(model, batch(), LAYER, "block", TEMPLATES[:3], s)
    tolerance = TOLERANCE.get(family, 1e-8)
    for value, single in zip(found, singles, strict=True):
        assert value.losses == pytest.approx(single.losses, rel=tolerance)
        assert float((value.vector - single.vector).norm() / single.vector.norm()) < tolerance
        assert value.probability == pytest.approx(single.probability, rel=tolerance)


@pytest.mark.parametrize("stop", ["loss", "most-probable", "kl"])
def test_a_fact_that_has_stopped_stays_where_it_stopped_however_late_the_host_looks(stop) -> None:
    model = tiny_model("gpt2", torch.float64, seed=2)
    facts = [SAYABLE, FACTS["first"]]
    s = settings(lr=0.3, steps=25, stop=stop, kl_factor=0.5, kl_stop=0.4, loss_stop=3.5 if stop == "loss" else 0.0)
    singles = alone(model, facts, s)
    assert len({len(value.losses) for value in singles}) > 1
    for look_every in (1, 4, 100):
        found = optimise_values(model, facts, LAYER, "block", TEMPLATES[:3], s, look_every=look_every)
        for value, single in zip(found, singles, strict=True):
            assert value.losses == pytest.approx(single.losses, rel=1e-9)
            assert float((value.vector - single.vector).norm() / single.vector.norm()) < 1e-9


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device: sizes and numbers that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        counted = (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default)
        # Adam counts its steps on the CPU, whatever the device of what it moves.
        self.n += func in counted and args[0].dtype != torch.float32
        return func(*args, **(kwargs or {}))


def waits(steps: int, look_every: int) -> int:
    model = tiny_model("gpt2", torch.float64)
    with Waits() as counted:
        found = optimise_values(model, batch(), LAYER, "block", TEMPLATES, settings(steps=steps), look_every=look_every)
    assert {len(value.losses) for value in found} == {steps}
    return counted.n


def test_the_host_waits_for_the_device_only_when_it_looks() -> None:
    once = waits(2, look_every=100)
    assert waits(21, look_every=100) == once
    assert waits(21, look_every=5) == once + 4
    assert waits(21, look_every=1) == once + 20


class Work:
    """Counts the forwards and tokens of every block."""

    def __init__(self, model: EditableModel) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(model.n_layers)]
        self._handles = [
            model.block(i).register_forward_pre_hook(self._count(i), with_kwargs=True) for i in range(model.n_layers)
        ]

    def _count(self, layer: int):
        def count(_module, args, kwargs) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.tokens[layer].append(hidden.shape[0] * hidden.shape[1])

        return count

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()


def test_constant_parts_are_computed_once_and_only_suffixes_after_that() -> None:
    model, fact = tiny_model("gpt2"), FACTS["middle"]
    with Work(model) as work:
        optimise_values(model, [fact], LAYER, "block", TEMPLATES, settings(steps=7))
    prompts = [placed(model, t, fact, fact.prompt) for t in TEMPLATES]
    target = model.encode_target(fact.target_new)
    suffix = sum(len(ids) - at + len(target) - 1 for ids, at in prompts) + 1  # the essence is read at the subject
    for layer, tokens in enumerate(work.tokens):
        assert len(tokens) == (1 if layer <= LAYER else 8)
        assert all(suffix <= n <= 1.2 * suffix for n in tokens[1:]), "what is filled up is little"


def test_facts_that_have_stopped_leave_the_computation() -> None:
    model = tiny_model("gpt2", seed=2)
    facts = [SAYABLE, FACTS["middle"], FACTS["first"]]
    with Work(model) as work:
        found = optimise_values(
            model, facts, LAYER, "block", TEMPLATES[:2], settings(lr=0.3, steps=40, stop="most-probable")
        )
    steps = sorted({len(value.losses) for value in found})
    assert len(steps) > 1
    sizes = work.tokens[-1][1:]
    assert len(sizes) == steps[-1]
    assert [b < a for a, b in itertools.pairwise(sizes)] == [i in steps for i in range(1, steps[-1])]


class AddBoth:
    """Add δ to the outputs of a block's attention and of W at one position, and keep what they had returned there."""

    def __init__(self, model: EditableModel, position: int, deltas: tuple[Tensor, Tensor]) -> None:
        paths = (f"{model.block_path(LAYER)}.{model.family.attention}", model.mlp_out(LAYER))
        self.modules, self.position, self.deltas = [model.module(p) for p in paths], position, deltas
        self.before: dict[int, Tensor] = {}

    def _hook(self, which: int):
        def add(_module, _args, output):
            hidden = output if isinstance(output, Tensor) else output[0]
            self.before[which] = hidden[0, self.position].detach().clone()
            mask = torch.zeros_like(hidden)
            mask[0, self.position] = 1
            changed = hidden + mask * self.deltas[which]
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        return add

    def __enter__(self):
        self._handles = [m.register_forward_hook(self._hook(i)) for i, m in enumerate(self.modules)]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fact", ["first", "middle"])
def test_the_components_equal_a_plain_implementation(family, fact) -> None:
    model = tiny_model(family, torch.float64)
    s = settings(weight_decay=0.3, kl_factor=0.7, clamp_norm_factor=0.4, lr=0.2, steps=5)
    found = optimise_components(model, [FACTS[fact]], LAYER, TEMPLATES, s)[0]

    prompts = [placed(model, t, FACTS[fact], FACTS[fact].prompt) for t in TEMPLATES]
    essence, essence_at = placed(model, "{}", FACTS[fact], "{} is a")
    target = model.encode_target(FACTS[fact].target_new)
    deltas = tuple(torch.zeros(model.hidden_size, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with torch.no_grad():
        before = log_probs(model, essence)[essence_at]
    with torch.no_grad(), AddBoth(model, prompts[0][1], deltas) as bare:
        log_probs(model, prompts[0][0])
    initial = [bare.before[0], bare.before[1]]
    adam, losses = torch.optim.Adam(deltas, lr=s.lr), []
    for step in range(s.steps):
        nll = []
        for ids, at in prompts:
            with AddBoth(model, at, deltas):
                predicted = log_probs(model, ids + target)[len(ids) - 1 : -1]
            nll.append(-predicted[torch.arange(len(target)), target].mean())
        with AddBoth(model, essence_at, deltas):
            after = log_probs(model, essence)[essence_at]
        kl = (after.exp() * (after - before)).sum()
        decay = sum(d.norm() / v.norm() ** 2 for d, v in zip(deltas, initial, strict=True))
        loss = sum(nll) / len(nll) + s.kl_factor * kl + s.weight_decay * decay
        losses.append(loss.item())
        if step == s.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for d, v in zip(deltas, initial, strict=True):
                d *= min(1.0, float(s.clamp_norm_factor * v.norm() / d.norm()))

    tolerance = TOLERANCE.get(family, 1e-8)
    for value, start, delta in zip(found, initial, (d.detach() for d in deltas), strict=True):
        assert value.losses == pytest.approx(losses, rel=tolerance)
        assert float((value.initial - start).norm() / start.norm()) < tolerance
        assert float((delta_of(value) - delta).norm() / delta.norm()) < tolerance
        assert float(delta.norm()) > 0
