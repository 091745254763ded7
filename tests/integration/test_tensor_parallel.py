"""Tensor parallelism, which is experimental: an edit on two processes is the edit on one."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from errata.editors.statistics import StatisticsStore
from errata.models import EditableModel, load
from forked import DEADLINE, begin
from tiny import tiny_facts, tiny_model, tiny_text_file

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch has no gloo here"
)


def edited(model: EditableModel, directory: str) -> dict[str, torch.Tensor]:
    """Edit two facts with MEMIT on two layers; return the changed matrices and what the model says then."""
    from random import Random

    from errata.editors.registry import editor_class, resolve_settings
    from errata.probes.scoring import score
    from errata.trajectory import Trajectory

    chosen = {
        "layers": [0, 1],
        "covariance_weight": 1.0,  # changes that do not vanish in the rounding of W
        "ridge": 1e-3,
        "statistics": {"source": f"{directory}/text.txt"},
        "contexts": {"lengths": [[2, 2]]},
        "value": {"steps": 4, "lr": 0.1},
    }
    editor = editor_class("memit")(resolve_settings("memit", model, chosen))
    editor.prepare(model, StatisticsStore(), Random(0))
    trajectory = Trajectory(model, editor)
    facts = tiny_facts(2)
    for fact in facts:
        assert trajectory.advance([fact])[0].applied
    said = [s.logp for s in score(model, [(fact.text, fact.target_new) for fact in facts])]
    weights = {path: model.weight(path).contiguous().clone() for path in trajectory.masters()}
    return {**weights, "said": torch.tensor(said)}


def edited_in_part(rank: int, directory: str) -> None:
    """Be one of the two processes; save what it has in the end."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.distributed import DistributedConfig

    meet, limit = f"file://{directory}/meet", timedelta(seconds=DEADLINE / 3)
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=limit)
    plain = AutoModelForCausalLM.from_pretrained(directory, distributed_config=DistributedConfig(tp_size=2))
    model = EditableModel(plain, AutoTokenizer.from_pretrained(directory), "spread")
    assert plain.model.layers[1].mlp.down_proj.weight.to_local().shape == (48, 40)
    save_file(edited(model, directory), f"{directory}/rank-{rank}.safetensors")
    torch.distributed.destroy_process_group()


def test_an_edit_on_two_processes_is_the_edit_on_one(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    tiny_text_file(tmp_path)
    said = [tmp_path / f"said-{rank}" for rank in range(2)]
    started = [
        begin(said[rank], edited_in_part, rank, str(tmp_path), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        for rank in range(2)
    ]
    before = {path: load(tmp_path).weight(path) for path in (model.mlp_out(0), model.mlp_out(1))}
    wanted = edited(load(tmp_path), str(tmp_path))
    for process in started:
        process.join(DEADLINE)
        assert process.exitcode == 0, "\n".join(words.read_text() for words in said)
    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(2))
    for name, tensor in wanted.items():
        assert torch.equal(first[name], second[name])
        change = tensor - before.get(name, torch.zeros_like(tensor))
        assert float((first[name] - tensor).norm() / change.norm()) < 1e-5, name
