"""What a lab model knows and can do: recall in every phrasing, and the downstream tasks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from errata.lab.tasks import TASKS, LabTask
from errata.lab.world import LabFact
from errata.probes.tasks.classification import weighted_f1

__all__ = [
    "UNRELATED_TEXT",
    "answers",
    "first_tokens",
    "next_words",
    "pad",
    "recall",
    "right_facts",
    "task_f1",
    "task_scores",
]

UNRELATED_TEXT = "The boy found the old lamp in the garden . "


def pad(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> tuple[Int[Tensor, "texts length"], Int[Tensor, "texts length"]]:
    """Encode texts as the model expects them and return tokens and mask, padded on the right.

    Args:
        tokenizer: the model's.
        texts: any.
    """
    coded = [tokenizer(text)["input_ids"] for text in texts]
    length = max(map(len, coded))
    fill = tokenizer.pad_token_id
    ids = torch.tensor([row + [fill] * (length - len(row)) for row in coded])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in coded])
    return ids, mask


@torch.no_grad()
def next_words(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 128
) -> Float[Tensor, "texts vocab"]:
    """Return the log-probabilities of the token after each text.

    Args:
        model: any causal language model.
        tokenizer: the model's.
        texts: prompts.
        batch_size: texts in one forward; texts of like length go together.
    """
    out: list[tuple[int, Tensor]] = []
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(order), batch_size):
        chosen = order[at : at + batch_size]
        ids, mask = pad(tokenizer, [texts[i] for i in chosen])
        logits = model(input_ids=ids, attention_mask=mask).logits
        last = logits[torch.arange(len(chosen)), mask.sum(1) - 1].float().log_softmax(-1)
        out += zip(chosen, last, strict=True)
    return torch.stack([row for _, row in sorted(out, key=lambda pair: pair[0])])


def first_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """Return the first token of each word as it follows a prompt.

    Args:
        tokenizer: the model's.
        words: objects.
    """
    return [int(tokenizer(" " + word, add_special_tokens=False)["input_ids"][0]) for word in words]


def right_facts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], objects: Sequence[str]
) -> list[bool]:
    """Tell for each prompt whether its object is the most probable next word.

    Args:
        model: any causal language model.
        tokenizer: the model's.
        prompts: one a question.
        objects: the right answers, one token each.
    """
    best = next_words(model, tokenizer, prompts).argmax(-1).tolist()
    return [token == want for token, want in zip(best, first_tokens(tokenizer, objects), strict=True)]


def recall(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[LabFact], before: str = ""
) -> dict[str, float]:
    """Measure the share of facts recalled, for each phrasing.

    Args:
        model: any causal language model.
        tokenizer: the model's.
        facts: what is asked.
        before: text put before the prompt.
    """
    prompts = [before + prompt.format(fact.subject) for fact in facts for prompt in fact.prompts]
    objects = [fact.object for fact in facts for _ in fact.prompts]
    names = [prompt for fact in facts for prompt in fact.prompts]
    right: dict[str, list[bool]] = {}
    for name, ok in zip(names, right_facts(model, tokenizer, prompts, objects), strict=True):
        right.setdefault(name, []).append(ok)
    return {name: sum(oks) / len(oks) for name, oks in right.items()}


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], tokens: int = 3
) -> list[str]:
    """Continue each prompt greedily.

    Args:
        model: any causal language model.
        tokenizer: the model's.
        prompts: one a question.
        tokens: how many tokens.
    """
    texts = [""] * len(prompts)
    for _ in range(tokens):
        best = next_words(model, tokenizer, [p + t for p, t in zip(prompts, texts, strict=True)], 64).argmax(-1)
        texts = [text + str(tokenizer.decode([token])) for text, token in zip(texts, best.tolist(), strict=True)]
    return texts


def task_f1(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: LabTask, n: int = 200) -> float:
    """Measure weighted F1 on held-out items; an answer that begins with no label counts as wrong.

    Args:
        model: any causal language model.
        tokenizer: the model's.
        task: which.
        n: how many items.
    """
    items = task.heldout(n)
    texts = answers(model, tokenizer, [item.prompt for item in items])
    given = [next((word for word in task.labels if text.strip().startswith(word)), "invalid") for text in texts]
    return weighted_f1([item.label for item in items], given)


def task_scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n: int = 200) -> dict[str, float]:
    """Measure weighted F1 on every task.

    Args:
        model: any causal language model.
        tokenizer: the model's.
        n: items of each.
    """
    return {name: task_f1(model, tokenizer, task, n) for name, task in TASKS.items()}
