"""UltraEdit against its equations written out, and its lifelong normalisation."""

import json
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from errata.editors.methods.ultraedit import Moments, UltraEdit, _ridge
from errata.editors.registry import resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Dense, LowRank
from errata.models import EditableModel
from errata.parity import read_cases, run_case
from errata.trajectory import Guard, Trajectory
from tiny import tiny_facts, tiny_model

FACTS = tiny_facts(8)


def prepared(model: EditableModel, **settings) -> UltraEdit:
    editor = UltraEdit(resolve_settings("ultraedit", model, {"lr": 1e-3, "modules": ("mlp",), **settings}))
    editor.prepare(model, StatisticsStore(), Random(0))
    return editor


def features(model: EditableModel, path: str, facts, tokens: str) -> tuple[Tensor, Tensor]:
    """Keys and gradients of one mini-batch, by hooks on the module and a backward pass through its weight."""
    seen = {}
    module = model.module(path)
    handle = module.register_forward_hook(lambda m, args, out: seen.update(h=args[0], y=out) or out.retain_grad())
    prompts = model.encode([f.text for f in facts])
    targets = [model.encode_target(f.target_new) for f in facts]
    rows = model.pad([p + t[:-1] for p, t in zip(prompts, targets, strict=True)])
    model.parameter(path).requires_grad_(True)
    logits = model.model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    wanted = [
        (r, len(p) - 1 + i, t) for r, (p, ts) in enumerate(zip(prompts, targets, strict=True)) for i, t in enumerate(ts)
    ]
    torch.stack([-logits[r, i].log_softmax(-1)[t] for r, i, t in wanted]).mean().backward()
    handle.remove()
    model.model.zero_grad(set_to_none=True)
    model.model.requires_grad_(False)
    mask = torch.zeros_like(rows.attention_mask)
    for r, i, _ in wanted:
        mask[r, i] = 1
    mask = (rows.attention_mask if tokens == "all" else mask).bool()
    return seen["h"][mask].detach(), seen["y"].grad[mask].detach()


class Published:
    """The published algorithm, written out: one normaliser for projections of one shape, turn after turn."""

    def __init__(self) -> None:
        self.n, self.mean, self.spread = 0, 0.0, 0.0

    def turn(self, model: EditableModel, paths, chunks, tokens: str) -> dict[str, dict[str, Tensor]]:
        gathered = {path: [] for path in paths}
        for chunk in chunks:
            for path in paths:
                h, g = features(model, path, chunk, tokens)
                gathered[path].append((h, g))
                z = torch.cat([h, g], 1)
                total, apart = self.n + len(z), z.mean(0) - self.mean
                self.mean = self.mean + len(z) * apart / total
                self.spread = self.spread + len(z) * z.var(0) + self.n * len(z) * apart**2 / total
                self.n = total
        std = (self.spread / (self.n - 1)).sqrt()
        found = {}
        for path in paths:
            H, G = (torch.cat(parts) for parts in zip(*gathered[path], strict=True))
            z = (torch.cat([H, G], 1) - self.mean) / (std + torch.finfo(torch.float64).eps)
            h_hat, g_hat = z.split([H.shape[1], G.shape[1]], 1)
            V = -1e-3 * (h_hat * h_hat).sum(1, keepdim=True) * g_hat
            shift = torch.linalg.solve(H.T @ H + torch.eye(H.shape[1], dtype=H.dtype), H.T @ V).T
            found[path] = {"keys": H, "values_grad": G, "dW": shift}
        return found


@pytest.mark.parametrize("tokens", ["all", "target"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_two_turns_follow_the_published_algorithm(family, tokens) -> None:
    model = tiny_model(family, torch.float64)
    paths = [model.mlp_out(1), model.mlp_out(2)]
    trajectory = Trajectory(model, prepared(model, modules=tuple(paths), tokens=tokens, mini_batch=2))
    published = Published()
    for turn in (FACTS[:4], FACTS[4:8]):
        expected = published.turn(model, paths, (turn[:2], turn[2:]), tokens)
        before = {path: model.weight(path).clone() for path in paths}
        trajectory.advance(turn)
        for path in paths:
            moved = model.weight(path) - before[path]
            torch.testing.assert_close(moved, expected[path]["dW"], rtol=1e-8, atol=1e-12)


def test_a_case_of_its_turns_is_read_and_compared(tmp_path) -> None:
    model = tiny_model("gpt2", torch.float64)
    path = model.mlp_out(1)
    model.model.save_pretrained(tmp_path / "gpt2_micro" / "model")
    model.tokenizer.save_pretrained(tmp_path / "gpt2_micro" / "model")
    records = [
        {
            "case_id": i,
            "requested_rewrite": {
                "subject": f.subject,
                "prompt": f.prompt,
                "target_new": {"str": f.target_new},
                "target_true": {"str": f.target_true},
                "relation_id": f.relation,
            },
            "paraphrase_prompts": list(f.paraphrase_prompts),
            "neighborhood_prompts": list(f.neighborhood_prompts),
        }
        for i, f in enumerate(FACTS[:4])
    ]
    (tmp_path / "records.json").write_text(json.dumps(records))
    tensors, published = {}, Published()
    for n, turn in enumerate((FACTS[:2], FACTS[2:4])):
        (found,) = published.turn(model, [path], (turn[:1], turn[1:]), "all").values()
        model.write(path, model.weight(path) + found["dW"])
        tensors |= {f"turn{n}.{k}.{path}": found[k].contiguous() for k in ("keys", "values_grad")}
        tensors[f"turn{n}.dW.{path}.weight"] = found["dW"].T.contiguous()
    directory = tmp_path / "gpt2_micro" / "ultraedit_seq"
    directory.mkdir()
    hparams = {
        "model": {"edit_modules": [path]},
        "editor": {"name": "ultraedit", "lr": 1e-3, "batch_size": 1024, "token": "mask"},
        "dataset": {"batch_size": 1, "n_edits": 2},
    }
    meta = {"case": "ultraedit_seq", "hparams": hparams, "recorder": {"batches": [[0, 1], [2, 3]]}}
    (directory / "f64.json").write_text(json.dumps(meta))
    save_file(tensors, directory / "f64.safetensors")
    (case,) = read_cases(directory)
    found = {c.tensor: c for c in run_case(case)}
    assert set(found) == set(tensors)
    assert all(c.ok for c in found.values()), found


def test_unbiased_moments_are_those_of_all_rows_together() -> None:
    rows = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 7
    parts = [Moments.of(part, "unbiased") for part in rows.split([4, 1, 25])]
    for moments in ((parts[0] + parts[1]) + parts[2], parts[0] + (parts[1] + parts[2])):
        torch.testing.assert_close(moments.mean, rows.mean(0))
        torch.testing.assert_close(moments.squares / 29, rows.var(0))
        normal = moments.normalise(rows, 0.0)
        torch.testing.assert_close(normal.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
        torch.testing.assert_close(normal.std(0), torch.ones(5, dtype=torch.float64))


def test_projections_of_one_shape_share_their_moments() -> None:
    model = tiny_model("llama")
    editor = prepared(model, modules=("gate_proj", "up_proj", "down_proj"))
    Trajectory(model, editor).advance(FACTS[:2])
    assert {name.split(".")[0] for name in editor.state_dict()} == {"48x80", "80x48"}
    state = editor.state_dict()
    assert int(state["48x80.count"]) == 2 * int(state["80x48.count"]) > 0


def test_a_refused_batch_is_not_remembered() -> None:
    model = tiny_model("gpt2")
    editor = prepared(model, lr=1e3)
    (entry, *_) = Trajectory(model, editor, guard=Guard(policy="rollback", spike=0.01)).advance(FACTS[:2])
    assert entry.status == "rolled-back"
    assert editor.state_dict() == {}


def test_the_two_systems_give_the_same_change() -> None:
    rng = torch.Generator().manual_seed(1)
    H, V = (
        torch.randn(6, 40, dtype=torch.float64, generator=rng),
        torch.randn(6, 30, dtype=torch.float64, generator=rng),
    )
    low, condition = _ridge(H, V, "low")
    assert isinstance(low, LowRank)
    expected = torch.linalg.solve(H.T @ H + torch.eye(40, dtype=torch.float64), H.T @ V).T
    torch.testing.assert_close(low.left @ low.right, expected)
    assert condition > 1
    dense, _ = _ridge(H[:, :7], V[:, :5], "dense")
    assert isinstance(dense, Dense)
    few = H[:, :7]
    expected = torch.linalg.solve(few.T @ few + torch.eye(7, dtype=torch.float64), few.T @ V[:, :5]).T
    torch.testing.assert_close(dense.matrix, expected)


def test_by_default_it_edits_late_layers() -> None:
    model = tiny_model("gpt2")
    editor = prepared(model, modules=())
    assert set(editor.propose(model, FACTS[:2]).changes) == {model.mlp_out(2), model.mlp_out(3)}


def test_an_automatic_step_moves_an_output_by_a_share_of_its_size() -> None:
    model = tiny_model("gpt2", torch.float64)
    path = model.mlp_out(3)
    absolute = prepared(model, modules=(path,), lr=1.0)
    automatic = prepared(model, modules=(path,), lr="auto")
    one, own = (editor.propose(model, FACTS[:2]).changes[path] for editor in (absolute, automatic))
    H, _ = features(model, path, FACTS[:2], "all")
    size = float((H @ model.weight(path).T).pow(2).mean(1).sqrt().median())
    torch.testing.assert_close(own.matrix, one.matrix * 0.3 * size / H.shape[1])
    assert resolve_settings("ultraedit", model).lr == "auto"
