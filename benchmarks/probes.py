"""Seconds a re-tested fact, with and without text, against one record after another."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.shapes import Size, random_facts, random_model
from benchmarks.tables import Table, seconds, spread, times
from errata.edits import Fact
from errata.models import EditableModel
from errata.probes.base import View
from errata.probes.generation import generate
from errata.probes.registry import probe_class

__all__ = ["retests"]


def retests(size: Size, records: int, texts: int, new_tokens: int, alone: int, repeats: int) -> Table:
    """Ask for every prompt of every fact, as after the last edit, and continue their first prompts.

    The plain implementation continues one prompt after another. Code that continues a record's prompts together stands
    beside it: it is the faster yardstick.

    Args:
        size: of the model.
        records: how many facts are asked for.
        texts: how many prompts of each fact are continued.
        new_tokens: of a continuation.
        alone: for how many prompts one after another is timed; its seconds are scaled to all.
        repeats: how often everything is timed.
    """
    model = random_model(size)
    facts = random_facts(size, records)
    prompts = [[fact.text, *fact.paraphrase_prompts, *fact.neighborhood_prompts][:texts] for fact in facts]
    flat = [prompt for of_fact in prompts for prompt in of_fact]
    took: dict[str, list[float]] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        spent, result = seconds(work)
        took.setdefault(what, []).append(spent / records)
        return result

    for _ in range(repeats):
        plain_scores = timed("plain scores", lambda: _plain_scores(model, facts))
        scores = timed("scores", lambda: _scores(model, facts))
        said_alone = timed("alone", lambda: _plain_texts(model, [[prompt] for prompt in flat[:alone]], new_tokens))
        said_plainly = timed("by record", lambda: _plain_texts(model, prompts, new_tokens))
        said = timed("texts", lambda: generate(model, flat, new_tokens))
    took["alone"] = [spent * len(flat) / alone for spent in took["alone"]]
    off = max(abs(a - b) for a, b in zip(plain_scores, scores, strict=True))
    wrong_alone, wrong = (sum(a != b for a, b in zip(x, said, strict=False)) for x in (said_alone, said_plainly))

    def both(one: str, other: str) -> list[float]:
        return [a + b for a, b in zip(took[one], took[other], strict=True)]

    ours = both("scores", "texts")
    texts_too = f"13 prompts, and {texts} texts of {new_tokens} tokens"
    lines = [
        ("13 prompts", took["plain scores"], took["scores"], f"log P by {off:.0e}"),
        (texts_too, both("plain scores", "alone"), ours, f"{wrong_alone} of {alone} texts"),
        (
            "the same, against a record's texts together",
            both("plain scores", "by record"),
            ours,
            f"{wrong} of {len(flat)} texts",
        ),
    ]
    rows = [[what, spread(plain), spread(own), times(plain, own), differs] for what, plain, own, differs in lines]
    measured: list[dict[str, Any]] = [
        {"what": what, "plain": plain, "ours": own, "off": off, "wrong": wrong_alone + wrong}
        for what, plain, own, _ in lines
    ]
    return Table("probes", ["of each fact", "plain", "Errata", "", "differs"], rows, measured)


def _scores(model: EditableModel, facts: Sequence[Fact]) -> list[float]:
    """Let the proficiency probe ask for all facts, as it does after the last edit."""
    cls = probe_class("proficiency")
    probe = cls(cls.Settings())
    probe.prepare(model, facts)
    rows = list(probe.measure(View(model, len(facts), (), facts, final=True)))
    return [
        value for row in rows if row.metric.split(".")[1].startswith("exact") for value in (row.logp_new, row.logp_true)
    ]


@torch.no_grad()
def _plain_scores(model: EditableModel, facts: Sequence[Fact]) -> list[float]:
    """Score one record a forward pass, two rows a prompt, a token at a time."""
    found = []
    for fact in facts:
        assert fact.target_true is not None
        prompts = [fact.text, *fact.paraphrase_prompts, *fact.neighborhood_prompts]
        rows = [
            (model.encode([prompt])[0], model.encode_target(wanted))
            for prompt in prompts
            for wanted in (fact.target_new, fact.target_true)
        ]
        tokens = model.pad([ids + target for ids, target in rows])
        logits = model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits
        for row, (ids, target) in enumerate(rows):
            total = 0.0
            for j, token in enumerate(target):
                total += torch.log_softmax(logits[row, len(ids) - 1 + j], dim=0)[token].item()
            found.append(total / len(target))
    return found


@torch.no_grad()
def _plain_texts(model: EditableModel, prompts: Sequence[Sequence[str]], new_tokens: int) -> list[str]:
    """Continue the prompts of each group together, padded on the left, with a cache."""
    said = []
    for of_fact in prompts:
        rows = model.encode(list(of_fact))
        width = max(map(len, rows))
        given: dict[str, Any] = {
            "input_ids": torch.tensor([[model.pad_id] * (width - len(ids)) + ids for ids in rows]),
            "attention_mask": torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows]),
        }
        made = model.model.generate(**given, max_new_tokens=new_tokens, do_sample=False, pad_token_id=model.pad_id)
        said += [str(model.tokenizer.decode(ids[width:], skip_special_tokens=True)) for ids in made]
    return said
