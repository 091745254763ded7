"""ENCORE, LyapLock, PMET and NSE equal their equations written out densely, batch after batch, and resume."""

from random import Random

import pytest
import torch
from test_closed_form import FACTS, VALUE, Given, covariance, distance, inside, mean_key
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.values import optimise_components, optimise_values
from errata.errors import ConfigError
from errata.models import EditableModel
from errata.trajectory import DiskJournal, Trajectory, Update
from tiny import tiny_model

families = pytest.mark.parametrize("family", ["gpt2", "llama"])
BATCHES = (FACTS[:3], FACTS[3:5], FACTS[5:6])
LAYERS = (0, 1)
SETTINGS = {
    "layers": LAYERS,
    "value": VALUE,
    "contexts": {"lengths": ((4, 3),)},
    "covariance_weight": 3.0,
    "ridge": 0.0,
}
OWN = {
    "encore": {"norm_weight": 2.0},
    "lyaplock": {"allowance": 0.5},
    "pmet": {},
    "nse": {"near": 0.0, "far": 1e9, "neuron_share": 0.8},
}


def prepared(name: str, model: EditableModel, **chosen) -> Editor:
    editor = editor_class(name)(resolve_settings(name, model, {"subjects": 0.0} | SETTINGS | OWN[name] | chosen))
    editor.prepare(model, Given(), Random(0))
    return editor


def dense(update: Update, path: str) -> Tensor:
    change = update.changes[path]
    return change.left @ change.right if hasattr(change, "left") else change.matrix


def keys_of(model: EditableModel, path: str, editor: Editor, batch) -> Tensor:
    templates = editor.state_dict()["templates"]
    pairs = [(mean_key(model, path, f, ["{}"]), mean_key(model, path, f, templates)) for f in batch]
    return torch.stack([(bare + prefixed) / 2 for bare, prefixed in pairs], 1)


def values_of(model: EditableModel, editor: Editor, batch) -> list[Tensor]:
    s, templates = editor.settings, ["{}", *editor.state_dict()["templates"]]
    return [v.vector for v in optimise_values(model, batch, LAYERS[-1], "block", templates, s.value)]


def missing(model: EditableModel, path: str, values: list[Tensor], batch) -> Tensor:
    return torch.stack([z - inside(model, path, f, "{}")[1] for z, f in zip(values, batch, strict=True)], 1)


def follow(name: str, family: str, solve, values=values_of, parts=lambda i: len(LAYERS) - i, site="block", **chosen):
    """Run three batches beside a dense computation, layer by layer, and compare every change.

    `solve(path, C, K, R, W)` gives the change, W being the weight before the batch.
    """
    model, other = (tiny_model(family, torch.float64) for _ in range(2))
    editor = prepared(name, model, **chosen)
    trajectory = Trajectory(model, editor)
    top = other.block_path(LAYERS[-1]) if site == "block" else other.mlp_out(LAYERS[-1])
    for batch in BATCHES:
        update = trajectory.propose(batch)
        wanted = values(other, editor, batch)
        for i, layer in enumerate(LAYERS):
            path = other.mlp_out(layer)
            K = keys_of(other, path, editor, batch)
            R = missing(other, top, wanted, batch) / parts(i)
            W = other.weight(path).clone()
            expected = solve(path, covariance(other, layer), K, R, W)
            assert distance(dense(update, path), expected) < 1e-7, (path, batch)
            other.write(path, W + expected)
        trajectory.advance(batch)
    return editor


@families
def test_encore_penalises_the_norm_of_the_change_beside_past_keys(family: str) -> None:
    past: dict[str, Tensor] = {}

    def solve(path, C, K, R, W):
        I = torch.eye(len(C), dtype=C.dtype)  # noqa: E741 - the paper's letter
        A = 3.0 * C + 2.0 * I + past.get(path, 0 * C) + K @ K.T
        past[path] = past.get(path, 0 * C) + K @ K.T
        return R @ K.T @ torch.linalg.inv(A)

    follow("encore", family, solve)


def test_encore_stops_its_values_as_its_code_does() -> None:
    s = editor_class("encore").Settings(layers=(1,)).value
    assert (s.stop, s.steps_after, s.stop_contexts, s.clamp_norm_factor) == ("most-probable", 3, "prefixed", 0.75)


@families
@pytest.mark.parametrize("allowance", [0.5, 1e9])
def test_lyaplock_pulls_past_and_preserved_values_back_as_hard_as_its_queue_says(family: str, allowance: float) -> None:
    gram: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    original: dict[str, Tensor] = {}
    queue: dict[str, float] = {}
    allowed: dict[str, float] = {}
    pressures = []

    def solve(path, C, K, R, W):
        W0 = original.setdefault(path, W)
        zero = torch.zeros_like(C)
        aZ = queue[path] / allowed[path] ** 0.5 if path in queue else 1.0
        pressures.append(aZ)
        left = R @ K.T + values.get(path, torch.zeros_like(W)) - W @ gram.get(path, zero) + aZ * 3.0 * (W0 - W) @ C
        delta = left @ torch.linalg.inv(K @ K.T + gram.get(path, zero) + aZ * 3.0 * C)
        drift = W + delta - W0
        loss = float(torch.trace(drift @ C @ drift.T))
        allowed.setdefault(path, allowance * loss)
        root = allowed[path] ** 0.5
        queue[path] = max(queue.get(path, root) + (loss - allowed[path]) / root, root)
        gram[path] = gram.get(path, zero) + K @ K.T
        values[path] = values.get(path, torch.zeros_like(W)) + (W + delta) @ K @ K.T
        return delta

    editor = follow("lyaplock", family, solve, allowance=allowance)
    assert (max(pressures) > 1.5) is (allowance < 1), "the queue grows only while the loss is beyond what is allowed"
    for path, expected in queue.items():
        assert editor.state_dict()[f"queue|{path}"].tolist() == pytest.approx([expected, allowed[path]], rel=1e-7)


def test_lyaplock_stays_nearer_to_the_unedited_model_the_less_is_allowed() -> None:
    losses = []
    for allowance in (0.05, 1e9):
        model = tiny_model("gpt2", torch.float64)
        trajectory = Trajectory(model, prepared("lyaplock", model, allowance=allowance))
        entries = [trajectory.advance([fact])[0] for fact in FACTS]
        losses.append(entries[-1].diagnostics["preservation_loss"])
        assert all(e.diagnostics["condition"] > 1 for e in entries)
        assert (entries[-1].diagnostics["queue_pressure"] > 2) is (allowance < 1)
    assert losses[0] < 0.8 * losses[1]


@pytest.mark.parametrize("chosen", [{}, {"regularise": [{"name": "rect"}]}])
def test_lyaplock_carries_what_knowledge_asks_for_and_factors_where_a_queue_grows(chosen: dict) -> None:
    model = tiny_model("gpt2", torch.float64)
    editor = prepared("lyaplock", model, allowance=60.0, **chosen)
    generator = torch.Generator().manual_seed(0)
    paths = [model.mlp_out(layer) for layer in LAYERS]
    W0 = {path: model.weight(path).clone() for path in paths}
    width = W0[paths[0]].shape[1]
    pasts = {path: (torch.zeros(width, 0).double(), torch.zeros(len(W0[path]), 0).double()) for path in paths}
    grown = 0
    for n in range(width // 4):
        loss = 100.0 if n == 5 else 1.0  # beyond what is allowed, once; the next shortens the queue again
        memory = {}
        for path in paths:
            K = torch.randn(width, 1, generator=generator).double()
            V = W0[path] @ K + torch.randn(len(W0[path]), 1, generator=generator)
            pasts[path] = torch.cat([pasts[path][0], K], 1), torch.cat([pasts[path][1], V], 1)
            memory |= {path: K, f"values of {path}": V, f"loss of {path}": torch.tensor(loss)}
        before = editor._pressure(paths[0])
        editor.remember(Update({}, memory=memory))
        grown += editor._pressure(paths[0]) != before
        for layer, path in zip(LAYERS, paths, strict=True):
            K, V = pasts[path]
            C = 3.0 * covariance(model, layer)
            A = K @ K.T + editor._pressure(path) * C
            D = torch.linalg.solve(A, K @ (V - W0[path] @ K).T).T
            assert distance(editor._wanted[path], D) < 1e-9
            assert distance(editor._weighted[path], D @ C) < 1e-9
    assert grown == 2
    # At first, twice for the queue, and once for the keys that have gathered since.
    assert [past.factorizations for past in editor._past.values()] == [4, 4]
    trajectory = Trajectory(model, editor)
    entry = trajectory.advance(FACTS[:2])[0]
    losses = []
    for layer, path in zip(LAYERS, paths, strict=True):
        drift = trajectory.masters()[path].double() - W0[path]
        losses.append(float(torch.trace(drift @ covariance(model, layer) @ drift.T)))
    assert entry.diagnostics["preservation_loss"] == pytest.approx(max(losses), rel=1e-8)


def test_proposing_with_lyaplock_writes_no_weight_in_either_layout() -> None:
    for family in ("gpt2", "llama"):
        model = tiny_model(family, torch.float64)
        editor = prepared("lyaplock", model)
        before = {k: v.clone() for k, v in model.model.state_dict().items()}
        editor.remember(editor.propose(model, BATCHES[0]))
        assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())


@families
def test_pmet_teaches_the_feed_forward_its_own_part(family: str) -> None:
    def values(model, editor, batch):
        s, templates = editor.settings, ["{}", *editor.state_dict()["templates"]]
        return [v.vector for _, v in optimise_components(model, batch, LAYERS[-1], templates, s.value)]

    def solve(path, C, K, R, W):
        return R @ K.T @ torch.linalg.inv(3.0 * C + K @ K.T)

    follow("pmet", family, solve, values, lambda i: (len(LAYERS) - i) ** 0.5, site="mlp")


def dense_nse(model: EditableModel, editor: Editor, batch, values, past: dict[str, Tensor]) -> dict[str, Tensor]:
    """Go through the layers in passes, on the most active neurons alone, writing every change; return their sums."""
    s, total = editor.settings, {}
    top = model.block_path(LAYERS[-1])
    for _ in range(s.passes):
        far = missing(model, top, values, batch).norm(dim=0)
        chosen = [i for i, d in enumerate(far.tolist()) if s.near < d < s.far]
        if not chosen:
            break
        facts, wanted = [batch[i] for i in chosen], [values[i] for i in chosen]
        for i, layer in enumerate(LAYERS):
            path, C = model.mlp_out(layer), covariance(model, layer)
            K = keys_of(model, path, editor, facts)
            R = missing(model, top, wanted, facts) / (len(LAYERS) - i)
            order = K.abs().sum(1).argsort(descending=True)
            sums = K.abs().sum(1)[order].cumsum(0)
            S = order[: int((sums <= s.neuron_share * sums[-1] * (1 + 1e-12)).sum())]
            A = (s.covariance_weight * C + past.get(path, 0 * C))[S][:, S] + K[S] @ K[S].T
            delta = torch.zeros_like(model.weight(path))
            delta[:, S] = R @ K[S].T @ torch.linalg.inv(A)
            total[path] = total.get(path, 0) + delta
            model.write(path, model.weight(path) + delta)
    return total


@families
@pytest.mark.parametrize("chosen", [{}, {"values_from": "present"}, {"passes": 1}])
def test_nse_changes_the_most_active_neurons_in_passes(family: str, chosen: dict) -> None:
    model, other, unedited = (tiny_model(family, torch.float64) for _ in range(3))
    editor = prepared("nse", model, **chosen)
    trajectory = Trajectory(model, editor)
    past: dict[str, Tensor] = {}
    for batch in BATCHES:
        update = trajectory.propose(batch)
        rewound = editor.settings.values_from == "unedited"
        values = values_of(unedited if rewound else other, editor, batch)
        expected = dense_nse(other, editor, batch, values, past)
        for path, change in expected.items():
            found = dense(update, path)
            assert distance(found, change) < 1e-7, path
            still = (found == 0).all(0)
            if editor.settings.passes == 1:
                assert 0.1 < float(still.double().mean()) < 0.9, "the least active neurons keep their weights"
        assert update.diagnostics["passes"] == editor.settings.passes
        trajectory.advance(batch)
        for path in expected:
            K = keys_of(other, path, editor, batch)
            past[path] = past.get(path, 0 * (K @ K.T)) + K @ K.T


def test_nse_leaves_out_facts_that_are_near_enough_or_too_far() -> None:
    model = tiny_model("gpt2", torch.float64)
    editor = prepared("nse", model)
    path = model.block_path(LAYERS[-1])
    far = missing(model, path, values_of(model, editor, FACTS[:3]), FACTS[:3]).norm(dim=0).sort().values.tolist()
    middle = (far[0] + far[1]) / 2
    absolute = {"distance_unit": "absolute"}
    left_out = {
        "near": prepared("nse", model, passes=1, near=middle, **absolute).propose(model, FACTS[:3]),
        "far": prepared("nse", model, passes=1, far=middle, **absolute).propose(model, FACTS[:3]),
    }
    assert {name: next(iter(u.changes.values())).left.shape[1] for name, u in left_out.items()} == {"near": 2, "far": 1}
    assert [u.diagnostics["too_far"] for u in left_out.values()] == [0, 2]
    z = values_of(model, editor, FACTS[:3])
    gaps = missing(model, path, z, FACTS[:3]).norm(dim=0)
    lengths = torch.stack([inside(model, path, f, "{}")[1] for f in FACTS[:3]]).norm(dim=1)
    ratios = (gaps / lengths).sort().values.tolist()
    by_length = prepared("nse", model, passes=1, distance_unit="state", near=0.0, far=(ratios[0] + ratios[1]) / 2)
    assert by_length.propose(model, FACTS[:3]).diagnostics["too_far"] == 2
    (entry,) = Trajectory(model, prepared("nse", model, near=1e8)).advance(FACTS[:1])
    assert entry.status == "failed"
    assert "set `near` and `far`" in entry.verdict


@pytest.mark.parametrize("name", ["nse", "lyaplock"])
def test_weights_are_read_as_prune_shows_them(name: str) -> None:
    # With the bound so small that nearly all of an update is taken away, the weights are far from those that edits see.
    model = tiny_model("gpt2", torch.float64)
    plain, pruned = prepared(name, model), prepared(name, model, regularise=[{"name": "prune", "alpha": 2.0}])
    (prune,) = pruned._regularisers
    prune._bound = dict.fromkeys(prune._bound, 1e-3)
    alone = Trajectory(model, plain)
    alone.advance(FACTS[:2])
    second = plain.propose(model, FACTS[2:4]).details["values"]
    alone.undo(last=2)
    together = Trajectory(model, pruned)
    together.advance(FACTS[:2])
    again = pruned.propose(model, FACTS[2:4]).details["values"]
    assert torch.allclose(second, again, rtol=1e-6)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interrupted_equals_uninterrupted(name: str, dtype: torch.dtype, tmp_path) -> None:
    model = tiny_model("llama", dtype)
    editor = prepared(name, model)
    trajectory = Trajectory(model, editor, journal=DiskJournal(tmp_path))
    for batch in BATCHES[:2]:
        assert trajectory.advance(batch)[0].status == "applied"
    expected = trajectory.propose(BATCHES[2])

    anew = tiny_model("llama", dtype)
    resumed = Trajectory(anew, prepared(name, anew), journal=DiskJournal(tmp_path))
    restored = prepared(name, tiny_model("llama", dtype))
    restored.load_state_dict(editor.state_dict())
    for found in (resumed.propose(BATCHES[2]), Trajectory(model, restored).propose(BATCHES[2])):
        assert found.diagnostics == expected.diagnostics
        assert found.tensors().keys() == expected.tensors().keys()
        assert all(torch.equal(t, expected.tensors()[k]) for k, t in found.tensors().items())


@pytest.mark.parametrize("name", OWN)
def test_a_layer_that_is_not_there_is_refused(name: str) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ConfigError, match="layer 9 is out of range"):
        resolve_settings(name, model, SETTINGS | {"layers": (1, 9)})
