"""Tokenizer, batches, interchange, and a training of a few steps."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from errata.lab.apart import Apart
from errata.lab.batches import BatchMaker
from errata.lab.corpus import plain_documents
from errata.lab.interchange import interchanged, subspaces
from errata.lab.models import LAB_MODELS, asset_path, load_world
from errata.lab.tokenizer import train_tokenizer
from errata.lab.train import train
from errata.lab.world import World, build_world
from errata.models import load


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(24, 1)


@pytest.fixture(scope="module", params=[False, True], ids=["gpt2", "llama"])
def tokenizer(request: pytest.FixtureRequest, world: World) -> PreTrainedTokenizerFast:
    return train_tokenizer(plain_documents(world, Random("t"), 1500), bos=request.param)


def test_every_object_is_one_token_and_any_text_survives(tokenizer: PreTrainedTokenizerFast, world: World) -> None:
    for relation in world.relations:
        for word in relation.objects:
            assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    text = "Zoë\nwas born: in 東京 {x}"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]


def test_a_name_is_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast, world: World) -> None:
    name = world.people[0]
    alone = tokenizer(name, add_special_tokens=False)["input_ids"]
    inside = tokenizer(f"The sport of {name} is", add_special_tokens=False)["input_ids"]
    assert len(alone) == 2
    assert alone == inside[3:5]


def test_only_the_llama_twin_begins_with_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    begins = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert begins == (tokenizer.bos_token != tokenizer.eos_token)


def test_batches_mark_subjects_and_write_the_donors_objects(tokenizer: PreTrainedTokenizerFast, world: World) -> None:
    maker = BatchMaker(world, tokenizer, rows=4, length=96, bos=False)
    batch = maker(range(len(world.people)), Random(0), 0.45)
    last_names = {tokenizer(person, add_special_tokens=False)["input_ids"][-1] for person in world.people}
    assert {int(i) for i in batch.ids[batch.rows, batch.columns]} <= last_names
    assert batch.swapped.shape == batch.objects.shape == (len(batch.rows), len(world.relations))
    assert batch.swapped.any()
    again = maker(range(len(world.people)), Random(0), 0.45)
    assert torch.equal(batch.ids, again.ids)


def test_interchange_gives_exactly_the_chosen_directions(tokenizer: PreTrainedTokenizerFast, world: World) -> None:
    maker = BatchMaker(world, tokenizer, rows=4, length=96, bos=False)
    batch = maker(range(len(world.people)), Random(1), 0.45)
    basis = subspaces(64, len(world.relations), 0.8, seed=0)
    hidden = torch.randn(4, 96, 64, generator=torch.Generator().manual_seed(0))
    block = torch.nn.Identity()
    with interchanged(block, batch, basis, 0.0, torch.Generator()) as states:
        mixed = block(hidden)[batch.rows, batch.columns]
    own = states[0]
    expected = torch.where(
        batch.swapped[:, :, None].bool(),
        torch.einsum("md,rsd->mrs", own[batch.donors], basis),
        torch.einsum("md,rsd->mrs", own, basis),
    )
    assert torch.allclose(torch.einsum("md,rsd->mrs", mixed, basis), expected, atol=1e-4)
    assert torch.equal(block(hidden), hidden)


@pytest.mark.parametrize("name", ["lab-s", "lab-s-llama"])
def test_training_writes_a_plain_directory_and_lowers_the_loss(name: str, tmp_path: Path) -> None:
    spec = replace(LAB_MODELS[name], people=24, layers=2, width=32, heads=2, steps=100, rows=2, length=96, rate=3e-3)
    seen: list[float] = []
    train(spec, tmp_path, progress=lambda step, steps, figures: seen.append(figures["loss"]))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("The boy found", return_tensors="pt")
    assert model(**ids).logits.shape[-1] == len(tokenizer)
    assert len(seen) == 2
    assert seen[1] < seen[0]
    assert (tmp_path / "world.json").exists()


def test_the_loss_that_keeps_keys_apart_measures_them_and_its_gradient_parts_them() -> None:
    model = GPT2LMHeadModel.from_pretrained(asset_path("lab-s"), dtype=torch.float32)
    maker = BatchMaker(load_world("lab-s"), load("lab-s").tokenizer, rows=1, length=64, bos=False)
    assert 0.9 < Apart(model, 1, maker, 0).loss().item() <= 1  # lab-s, whose training makes them alike
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    aid = Apart(model, 1, maker, 0)
    for _ in range(10):
        optimiser.zero_grad()
        aid.loss().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert all(p.grad is None for p in model.transformer.h[2].parameters())  # it ends at the keys
    assert Apart(model, 1, maker, 1).loss().item() < 0.3


def test_a_training_with_the_aid_keeps_keys_further_apart_than_one_without(tmp_path: Path) -> None:
    small = replace(LAB_MODELS["lab-s"], people=24, layers=2, width=32, heads=2, steps=40, rows=2, length=96, rate=3e-3)

    def alike(apart: float) -> float:
        model = train(replace(small, apart=apart), tmp_path / str(apart)).float()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / str(apart))
        maker = BatchMaker(build_world(24, small.world_seed), tokenizer, rows=1, length=64, bos=False)
        return Apart(model, 1, maker, 5).loss().item()

    assert alike(1.0) < alike(0.0) - 0.1


def test_keys_are_read_where_a_name_ends_whatever_stands_beside_it() -> None:
    model = GPT2LMHeadModel.from_pretrained(asset_path("lab-s"), dtype=torch.float32).eval()
    maker = BatchMaker(load_world("lab-s"), load("lab-s").tokenizer, rows=1, length=64, bos=False)
    aid = Apart(model, 1, maker, 0)
    name = maker.words("Marta Vell")
    with torch.no_grad():
        alone = aid._keys([name])
        among = aid._keys([name, maker.words("The boy found the old lamp .") + name])
    assert torch.allclose(alone[0], among[0], atol=1e-4)
    assert not torch.allclose(among[0], among[1], atol=1e-2)
