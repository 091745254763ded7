"""SERAC: which rows are answered by the counterfactual model, at which positions, and what is remembered."""

from contextlib import nullcontext
from random import Random

import pytest
import torch
from transformers import DynamicCache

from errata.editors.edit_memory import EditMemory
from errata.editors.gradients import pairs_of
from errata.editors.methods.serac import SERAC, SERACSettings, SERACTraining
from errata.editors.statistics import StatisticsStore
from errata.errors import ConfigError
from errata.models import EditableModel
from errata.models.hooks import cache_to
from errata.probes.generation import generate
from errata.probes.scoring import score
from errata.training import train
from errata.training.checkpoint import NETWORK
from errata.training.examples import draw_examples
from errata.trajectory import Trajectory
from tiny import tiny_facts, tiny_model
from trained import trained

FACTS = tiny_facts(12)
SMALL = {"hidden": 16, "size": 8, "width": 16, "heads": 2, "edits_per_step": 4, "validation": 4}


def taught(family: str, n: int, **settings) -> tuple[EditableModel, Trajectory]:
    model = tiny_model(family)
    editor = SERAC(SERACSettings(checkpoint=trained("serac", model), **settings))
    editor.prepare(model, StatisticsStore(), Random(0))
    trajectory = Trajectory(model, editor)
    for fact in FACTS[:n]:
        trajectory.advance([fact])
    return model, trajectory


def logits(model: EditableModel, rows, ends=None, left: bool = False) -> list[torch.Tensor]:
    """Return each row's logits without padding, which stands on the side that is asked for."""
    width = max(map(len, rows))
    pads = [[model.pad_id] * (width - len(row)) for row in rows]
    ids = torch.tensor([[*p, *r] if left else [*r, *p] for r, p in zip(rows, pads, strict=True)])
    marks = [([0] * len(p), [1] * len(r)) for r, p in zip(rows, pads, strict=True)]
    mask = torch.tensor([[*p, *r] if left else [*r, *p] for p, r in marks])
    with torch.no_grad(), model.reading(ends) if ends else nullcontext():
        out = model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [o[m.bool()] for o, m in zip(out, mask, strict=True)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_rows_in_scope_are_answered_over_the_target_and_all_else_is_the_base_models_to_the_bit(family) -> None:
    # At 0.999… the edit's own prompt alone is in its scope.
    model, trajectory = taught(family, 2, threshold=0.9999)
    pairs = pairs_of(model, FACTS[:2])
    other = model.encode(["many people walk there each day because children play"])[0]
    rows = [pairs[0][0] + pairs[0][1] + other[-3:], other, pairs[1][0] + pairs[1][1]]
    ends = [len(pairs[0][0]) - 1, len(other) - 1, len(pairs[1][0]) - 1]
    after = logits(model, rows, ends)
    network = trajectory.editor._network
    with torch.no_grad():
        embeddings = model.parameter(model.family.embeddings)
        expected = network.counterfactual(embeddings, [pairs[0], pairs[1]], [rows[0], rows[2]], [ends[0], ends[2]])
        expected = [model.logits(states[None])[0] for states in expected]
    trajectory.close()
    before = logits(model, rows, ends)
    assert not model.reads_whole
    assert torch.equal(after[1], before[1])
    for i, answer, (prompt, target) in ((0, expected[0], pairs[0]), (2, expected[1], pairs[1])):
        place = slice(len(prompt) - 1, len(prompt) - 1 + len(target))
        torch.testing.assert_close(after[i][place], answer, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(before[i][place], answer, atol=1e-2)
        assert torch.equal(after[i][: place.start], before[i][: place.start])
        assert torch.equal(after[i][place.stop :], before[i][place.stop :])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prompt_goes_the_same_way_alone_among_others_and_behind_padding_on_either_side(family) -> None:
    model, trajectory = taught(family, 4)
    rows = model.encode([f.text for f in FACTS[:4]] + ["many people walk there each day because children play music"])
    together = logits(model, rows, [len(row) - 1 for row in rows])
    unannounced = logits(model, rows)
    alone = [logits(model, [row])[0] for row in rows]
    trajectory.close()
    base = logits(model, rows)
    for a, b, c, d in zip(together, unannounced, alone, base, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)
        assert a is together[-1] or not torch.allclose(a[-1], d[-1], atol=1e-2)


def test_padding_on_the_left_changes_no_choice_and_no_answer() -> None:
    model, _ = taught("llama", 3)  # whose positions are relative
    rows = model.encode([f.text for f in FACTS[:3]])
    rows[1] = rows[1] + model.encode_target("pilot")
    for left, right in zip(logits(model, rows, left=True), logits(model, rows), strict=True):
        torch.testing.assert_close(left[-1], right[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_cache_continues_the_answer_that_a_whole_text_gets(family) -> None:
    model, _ = taught(family, 3)
    facts = [f for f in FACTS[:3] if len(model.encode_target(f.target_new)) > 1]
    assert facts
    for fact in facts:
        (prompt,) = model.encode([fact.text])
        target = model.encode_target(fact.target_new)
        whole = logits(model, [prompt + target], [len(prompt) - 1])[0]
        given, cache = prompt, cache_to(model.model, DynamicCache())
        for i, token in enumerate([*target, None]):
            with torch.no_grad():
                out = model.model(input_ids=torch.tensor([given]), **cache, use_cache=True)
            torch.testing.assert_close(out.logits[0, -1], whole[len(prompt) - 1 + i], rtol=1e-3, atol=1e-3)
            given = [token]


def test_scoring_and_generation_go_through_the_memory() -> None:
    model, trajectory = taught("gpt2", 3)
    asked = [(f.text, f.target_new) for f in FACTS[:3]]
    after = [s.logp for s in score(model, asked)]
    told = generate(model, [f.text for f in FACTS[:3]], 3)
    for fact, text in zip(FACTS, told, strict=False):
        (row,) = model.encode([fact.text])
        end, made = len(row) - 1, []
        while len(made) < 3:
            made.append(int(logits(model, [row + made], [end])[0][-1].argmax()))
        assert text == model.tokenizer.decode(made, skip_special_tokens=True)
    trajectory.close()
    assert told != generate(model, [f.text for f in FACTS[:3]], 3)
    assert all(a > b for a, b in zip(after, [s.logp for s in score(model, asked)], strict=True))


def test_a_later_edit_of_the_same_prompt_takes_the_place_of_the_earlier() -> None:
    first = EditMemory(torch.tensor([[0.0], [1.0]]), [([1, 2], [3]), ([4], [5, 6])])
    second = EditMemory(torch.tensor([[0.0], [1.0]]), [([1, 2], [7]), ([8], [9])])
    both = first.followed_by(second)
    assert both.pairs == [([4], [5, 6]), ([1, 2], [7]), ([8], [9])]
    probability, edits = both.nearest(torch.tensor([[0.0], [1.0], [1.5]]))
    assert edits.tolist() == [1, 2, 2], "of equals the last"
    torch.testing.assert_close(probability, torch.tensor([1.0, 1.0, 0.7788]), rtol=0, atol=1e-4)
    again = EditMemory.of(both.tensors(), torch.device("cpu"))
    assert again.pairs == both.pairs
    assert torch.equal(again.keys, both.keys)


def test_the_memory_follows_undo_earlier_steps_and_saved_states() -> None:
    model, trajectory = taught("gpt2", 3)
    editor = trajectory.editor
    whole = editor.state_dict()
    with trajectory.at(1):
        assert len(editor._memory) == 1
    assert len(editor._memory) == 3
    trajectory.undo(id="1")
    assert editor._memory.pairs == pairs_of(model, [FACTS[0], FACTS[2]])
    editor.load_state_dict(whole)
    assert editor._memory.pairs == pairs_of(model, FACTS[:3])


def test_the_loss_counts_paraphrases_inside_and_everything_else_outside() -> None:
    model = tiny_model("gpt2")
    settings = SERACTraining(**SMALL)
    network = SERAC.network(model, settings, torch.Generator().manual_seed(0))
    examples = draw_examples(FACTS, 3, settings.examples, Random(0))
    loss, figures = SERAC.loss(network, model, settings, examples)
    facts = [e.facts[0] for e in examples]
    inside, outside = [], []
    texts = dict.fromkeys([*(e.asked[0] for e in examples), *(t for e in examples for t in e.locality)])
    f = dict(zip(texts, network.keys(model, model.encode(list(texts))), strict=True))
    for fact in facts:
        (own,) = network.keys(model, model.encode([fact.text]))
        for text in texts:
            d = (f[text] - own).square().sum()
            within = text == fact.text or text in fact.paraphrase_prompts
            (inside if within else outside).append(d if within else -torch.log(1 - torch.exp(-d)))
    expected = torch.stack(inside).mean() + torch.stack(outside).sum() / 3
    assert (loss - figures["answer"]).item() == pytest.approx(expected.item(), rel=1e-2)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.classifier.parameters())
    assert all(p.grad is None for p in model.model.parameters())


def test_an_interrupted_training_gives_the_same_networks(tmp_path) -> None:
    model = tiny_model("gpt2")
    settings = {**SMALL, "checkpoint_every": 2, "validate_every": 2}
    train("serac", model, FACTS, tmp_path / "whole", settings={**settings, "steps": 6})
    train("serac", model, FACTS, tmp_path / "cut", settings={**settings, "steps": 4})
    train("serac", model, FACTS, tmp_path / "cut", settings={**settings, "steps": 6}, resume=True)
    for name in (NETWORK, "resume.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_impossible_networks_are_refused() -> None:
    model = tiny_model("gpt2")
    for wrong, message in (({"layer": 3}, "0 to 2"), ({"width": 20, "heads": 3}, "multiple of the heads")):
        with pytest.raises(ConfigError, match=message):
            SERAC.network(model, SERACTraining(**wrong), torch.Generator())
