"""WISE's side memory: shards, masks, merging, and which prompts go through it."""

from pathlib import Path
from random import Random

import pytest
import torch

from errata.editors.irrelevant import IrrelevantTexts
from errata.editors.methods.wise import WISE, WISESettings
from errata.editors.side_memory import SideMemory
from errata.editors.statistics import StatisticsStore
from errata.editors.text_source import TextSource
from errata.editors.ties import ties
from errata.errors import StatisticsError
from errata.models import EditableModel
from errata.probes.generation import generate
from errata.probes.scoring import score
from errata.trajectory import DiskJournal, Journal, Trajectory
from tiny import tiny_facts, tiny_model, tiny_text_file

FACTS = tiny_facts(5)
SETTINGS = {
    "layer": 2,
    "lr": 0.3,
    "steps": 40,
    "alpha": 0.5,
    "beta": 2.0,
    "gamma": 1.0,
    "act_ratio": 0.3,
    "contexts": {"lengths": ((3, 2),)},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text_file(tmp_path_factory.mktemp("text"))


def begun(model: EditableModel, text: Path, journal: Journal | None = None, **settings: object) -> Trajectory:
    chosen = {**SETTINGS, **settings, "statistics": {"source": str(text), "max_tokens": 16}}
    editor = WISE(WISESettings.model_validate(chosen))
    editor.prepare(model, StatisticsStore(), Random(0))
    return Trajectory(model, editor, journal=journal)


def test_ties_keeps_the_largest_and_averages_what_agrees_with_the_elected_sign() -> None:
    a = torch.tensor([[4.0, -3.0, 2.0, 0.1]])
    b = torch.tensor([[2.0, 5.0, 0.2, 3.0]])
    assert ties([a, b], [0.5, 0.5], 0.75).tolist() == [[3.0, 5.0, 2.0, 3.0]]
    assert torch.equal(ties([a], [1.0], 1.0), a)
    one, other = torch.tensor([[1.0, -1.0]]), torch.tensor([[-2.0, 0.0]])
    assert ties([one, other], [0.9, 0.1], 1.0).tolist() == [[1.0, -1.0]]


def test_shards_keep_to_their_masks_and_groups_are_merged_when_full() -> None:
    like = torch.zeros(6, 5, dtype=torch.float64)
    memory = SideMemory(like, seed=3, ratio=0.3, save_every=2, merge_every=4, fold=True, density=1.0)
    changes = []
    for n in range(9):
        before = memory.present().clone()
        record = memory.record(torch.full_like(like, n + 1.0), torch.tensor(10.0 + n))
        assert record["change"].numel() == int(memory.mask(n // 2).sum())
        memory.add(record)
        changes.append(record)
        if n == 1:
            assert torch.equal(memory.changes["shard|0"], 3.0 * memory.mask(0))
            assert torch.equal(before, 1.0 * memory.mask(0))
    assert list(memory.changes) == ["merged|1", "shard|4"]
    assert memory.least == {"merged|1": 10.0, "shard|4": 18.0}
    apart = SideMemory(like, seed=3, ratio=0.3, save_every=2, merge_every=4, fold=False, density=1.0)
    for record in changes:
        apart.add(record)
    assert list(apart.changes) == ["merged|0", "merged|1", "shard|4"]
    first = ties([3.0 * memory.mask(0), 7.0 * memory.mask(1)], [0.5, 0.5], 1.0)
    assert torch.equal(apart.changes["merged|0"], first.double())
    # The edit that completed the first group is undone: the group is merged by the next one all the same.
    fewer = SideMemory(like, seed=3, ratio=0.3, save_every=2, merge_every=4, fold=False, density=1.0)
    for record in changes[:3] + changes[4:5]:
        fewer.add(record)
    assert list(fewer.changes) == ["merged|0", "shard|2"]

    again = SideMemory(like, seed=0, ratio=0.3, save_every=2, merge_every=4, fold=False, density=1.0)
    again.load_state_dict(apart.state_dict())
    assert torch.equal(again.mask(4), apart.mask(4))
    assert all(torch.equal(again.changes[k], apart.changes[k]) for k in apart.changes)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_goes_through_the_side_memory_and_an_unrelated_text_does_not(family: str, text: Path) -> None:
    model = tiny_model(family)
    before = score(model, [(FACTS[0].text, FACTS[0].target_new)])
    trajectory = begun(model, text)
    (entry,) = trajectory.advance(FACTS[:1])
    after = score(model, [(FACTS[0].text, FACTS[0].target_new)])
    assert after[0].logp > before[0].logp + 0.5
    changed = trajectory.editor.state_dict()["change|shard|0"]
    assert 0 < float((changed != 0).double().mean()) < 0.3
    assert entry.diagnostics["activation"] > 0
    trajectory.close()
    assert score(model, [(FACTS[0].text, FACTS[0].target_new)]) == before
    assert not model.reads_whole


def test_a_batch_is_written_fact_by_fact_each_into_its_own_shard(text: Path) -> None:
    settings = {"save_every": 2, "merge_every": 2, "steps": 3, "lr": 0.1}
    together, alone = (begun(tiny_model("gpt2"), text, **settings) for _ in range(2))
    together.advance(FACTS[:3])
    for fact in FACTS[:3]:
        alone.advance([fact])
    states = [t.editor.state_dict() for t in (together, alone)]
    assert states[0].keys() == states[1].keys() >= {"change|merged|0", "change|shard|1"}
    for name, value in states[1].items():
        assert torch.equal(states[0][name], value) if isinstance(value, torch.Tensor) else states[0][name] == value
    together.undo(last=3)
    assert not any(name.startswith("change|") for name in together.editor.state_dict())


def test_prompts_below_the_threshold_are_answered_as_before_to_the_bit(text: Path) -> None:
    model = tiny_model("gpt2")
    pairs = [(f.text, f.target_new) for f in FACTS]
    before = score(model, pairs)
    begun(model, text, act_ratio=1e6).advance(FACTS[:1])
    assert score(model, pairs) == before


def test_every_row_goes_its_own_way_and_generation_goes_its_prompts(text: Path) -> None:
    model = tiny_model("gpt2", torch.float64)
    begun(model, text).advance(FACTS[:1])
    shots = "Old houses stand near water. Children play music under green trees. "
    prompts = [f.text for f in FACTS] + [shots + f.text for f in FACTS[:2]] + ["Old houses"]
    pairs = [(p, FACTS[0].target_new) for p in prompts]
    for pair, found in zip(pairs, score(model, pairs), strict=True):
        assert score(model, [pair])[0].logp == pytest.approx(found.logp, abs=1e-9)
    texts = generate(model, prompts, 4)
    assert [generate(model, [p], 4)[0] for p in prompts] == texts
    for prompt, said in zip(prompts, texts, strict=True):
        (ids,) = model.encode([prompt])
        own = model.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=4, do_sample=False
        )
        assert model.tokenizer.decode(own[0, len(ids) :], skip_special_tokens=True).startswith(said)


def test_padding_on_the_left_changes_no_route(text: Path) -> None:
    model = tiny_model("llama", torch.float64)
    (ids,) = model.encode([FACTS[0].text])
    before = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
    begun(model, text, act_ratio=0.6).advance(FACTS[:1])
    padded = torch.tensor([[model.pad_id] * 20 + ids])
    mask = torch.tensor([[0] * 20 + [1] * len(ids)])
    alone = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
    assert not torch.allclose(alone, before, atol=0.1)
    # Rotary angles are float32 whatever the model's precision.
    assert torch.allclose(model.model(input_ids=padded, attention_mask=mask).logits[0, -1], alone, atol=1e-5)


def test_texts_of_one_token_are_no_irrelevant_texts(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("a\na\n")
    with pytest.raises(StatisticsError, match="has no text of two tokens"):
        begun(tiny_model("gpt2"), file)
    file.write_text("a\nold houses stand near water\n")
    begun(tiny_model("gpt2"), file).advance(FACTS[:1])


def test_texts_that_name_an_edited_subject_are_not_irrelevant(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{fact.subject} likes music\n" for fact in FACTS) + "old houses stand near water\n")
    texts = IrrelevantTexts(model, TextSource(source=str(file)), "wise")
    assert texts.naming(FACTS[1:3]) == [1, 2]
    drawn = {model.tokenizer.decode(row).strip() for row in texts.draw(50, Random(0), besides=[0, 1, 2])}
    assert drawn == {
        f"{FACTS[3].subject} likes music",
        f"{FACTS[4].subject} likes music",
        "old houses stand near water",
    }
    with pytest.raises(StatisticsError, match="all 6 texts name a subject"):
        texts.draw(1, Random(0), besides=range(6))

    trajectory = begun(model, file, steps=2)
    trajectory.advance(FACTS[:2])
    trajectory.advance(FACTS[2:3])
    assert trajectory.editor.state_dict()["touched"] == [0, 1, 2]
    file.write_text(f"{FACTS[0].subject} likes music\n")
    with pytest.raises(StatisticsError, match="Give more"):
        begun(tiny_model("gpt2"), file).advance(FACTS[:1])


@pytest.mark.parametrize("merge", ["merge", "retrieve"])
def test_side_memories_come_back_from_disk_and_from_a_state(merge: str, text: Path, tmp_path: Path) -> None:
    settings = {"merge": merge, "save_every": 1, "merge_every": 2, "steps": 5, "activation": "published"}
    model = tiny_model("gpt2")
    trajectory = begun(model, text, DiskJournal(tmp_path), **settings)
    for fact in FACTS:
        trajectory.advance([fact])
    pairs = [(f.text, f.target_new) for f in FACTS]
    expected = score(model, pairs)
    again = tiny_model("gpt2")
    reopened = begun(again, text, DiskJournal(tmp_path), **settings)
    assert score(again, pairs) == expected
    other = tiny_model("gpt2")
    fresh = begun(other, text, **settings)
    fresh.editor.load_state_dict(trajectory.editor.state_dict())
    assert score(other, pairs) == expected
    reopened.undo(id="1")
    names = [k for k in reopened.editor.state_dict() if k.startswith("change|merged")]
    assert len(names) == (1 if merge == "merge" else 2)


def test_margins_can_be_multiples_of_what_the_layer_puts_out(text: Path) -> None:
    diagnostics = {}
    for scale in (1.0, 10.0):
        model = tiny_model("llama", torch.float64)
        model.weight(model.mlp_out(2)).mul_(scale)
        trajectory = begun(
            model, text, unit="output", lr=1.0, alpha=0.5, beta=2.0, gamma=1.0, norm_constraint=float("inf"), steps=70
        )
        (entry,) = trajectory.advance(FACTS[:1])
        diagnostics[scale] = entry.diagnostics["activation"] / trajectory.editor._unit
        assert trajectory.editor.state_dict()["edits"] == 1
    assert all(1.9 < found < 4 for found in diagnostics.values()), diagnostics
