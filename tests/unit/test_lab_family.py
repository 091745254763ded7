"""The lab's family: models of one world, and a twin that answers questions in its chat template."""

import errno
import json
import shutil
from random import Random

import pytest

from errata.errors import ModelError
from errata.lab.batches import BatchMaker
from errata.lab.dialogue import asked, questions
from errata.lab.evaluate import recall, right_facts
from errata.lab.models import LAB_MODELS, asset_path, export, load_world
from errata.lab.tasks import TASKS
from errata.models import load
from errata.models.chat import ChatForm

FAMILY = [name for name in LAB_MODELS if name.startswith("lab-s")]
ADDED = ("lab-s-small", "lab-s-large", "lab-s-chat")


def test_models_named_after_lab_s_know_its_world_and_all_weights_together_are_small() -> None:
    assert {load_world(name).seed for name in FAMILY} == {1}
    assert {load_world(name).people for name in FAMILY} == {load_world("lab-s").people}
    sizes = [file.stat().st_size for name in LAB_MODELS for file in asset_path(name).glob("*.safetensors")]
    assert len(sizes) == len(LAB_MODELS)
    assert sum(sizes) < 45e6


@pytest.mark.parametrize("name", ADDED)
def test_the_shipped_weights_know_what_the_card_says(name: str) -> None:
    model, world = load(name), load_world(name)
    card = json.loads((asset_path(name) / "card.json").read_text(encoding="utf-8"))
    assert card["parameters"] == sum(p.numel() for p in model.model.parameters())
    assert min(card["recall_start"].values()) >= 0.99
    facts = Random(name).sample(world.facts(), 40)
    found = recall(model.model, model.tokenizer, facts)
    assert sum(found.values()) / len(found) >= 0.99
    items = TASKS["inference"].heldout(8)
    right = right_facts(model.model, model.tokenizer, [i.prompt for i in items], [i.label for i in items])
    assert sum(right) >= 7
    for method in ("rome", "memit", "grace"):
        source = model.settings[method].get("statistics", {}).get("source", name)
        assert source == name


def test_the_twin_answers_in_its_template_what_it_knows_as_statements() -> None:
    model, world = load("lab-s-chat"), load_world("lab-s-chat")
    chosen = Random(0).sample(questions(world), 30)
    assert len(chosen[0].prompts) == 6
    found = recall(model.model, model.tokenizer, chosen)
    assert sum(found.values()) / len(found) >= 0.99


def test_the_template_writes_a_turn_as_the_training_does() -> None:
    model, world = load("lab-s-chat"), load_world("lab-s-chat")
    form = ChatForm(model.tokenizer, "lab-s-chat")
    maker = BatchMaker(world, model.tokenizer, rows=1, length=64, bos=False)
    name = world.people[7]
    for relation in world.relations:
        for prompt in (*relation.phrasings, *relation.questions):
            written, _ = form.write(prompt.format(name))
            assert written == asked(prompt).format(name)
            lead, tail = asked(prompt).split("{}")
            trained = maker.words(lead) + maker.words(name) + maker.after(tail)
            assert form.encode(written)["input_ids"] == trained
    word = world.relations[0].objects[0]
    assert form.answer_ids(word) == maker.words(word)


def test_a_place_that_takes_no_model_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"lab-s could not be written to .*file/out"):
        export("lab-s", tmp_path / "file" / "out")

    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ModelError, match=r"\(\[Errno \d+\] No space left on device\)\. Make room"):
        export("lab-s", tmp_path / "out")
