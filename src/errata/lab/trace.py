"""A small causal check: at which position and after which block does another person's state carry over the answer?"""

from collections.abc import Sequence
from random import Random

import torch

from errata.lab.evaluate import first_tokens, pad
from errata.lab.world import World
from errata.models import EditableModel
from errata.models.hooks import hidden_of, with_hidden

__all__ = ["POSITIONS", "interchange_trace"]

POSITIONS = ("first name", "last name", "end of prompt")


@torch.no_grad()
def interchange_trace(model: EditableModel, world: World, n: int, rng: Random) -> dict[str, list[float]]:
    """Replace one hidden state by another person's and count how often the answer becomes that person's.

    Args:
        model: a lab model.
        world: what is true.
        n: how many pairs of people.
        rng: draws the pairs and the questions.

    Returns:
        For each position, the share for every block, from the lowest up.
    """
    prompts: list[str] = []
    wanted: list[str] = []
    while len(wanted) < n:
        one, other = rng.sample(world.people, 2)
        relation = rng.choice(world.relations)
        if len({world.truth[p, relation.name] for p in (one, other)}) == 2:
            prompt = rng.choice(relation.phrasings)
            prompts += [prompt.format(one), prompt.format(other)]
            wanted.append(world.truth[other, relation.name])
    ids, mask = pad(model.tokenizer, prompts)
    answers = torch.tensor(first_tokens(model.tokenizer, wanted))
    end = mask.sum(1) - 1
    last = torch.tensor([_last_name(model, world, prompt) for prompt in prompts])
    rows = torch.arange(0, len(prompts), 2)
    shares: dict[str, list[float]] = {}
    for name, positions in zip(POSITIONS, (last - 1, last, end), strict=True):
        shares[name] = []
        for layer in range(model.n_layers):
            logits = _with_donor(model, layer, ids, mask, rows, positions)
            best = logits[rows, end[rows]].argmax(-1)
            shares[name].append(float((best == answers).float().mean()))
    return shares


def _last_name(model: EditableModel, world: World, prompt: str) -> int:
    person = next(p for p in world.people if p in prompt)
    before, after = prompt.split(person)
    return model.subject_last(before, person, after)[1]


def _with_donor(
    model: EditableModel,
    layer: int,
    ids: torch.Tensor,
    mask: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor | Sequence[int],
) -> torch.Tensor:
    places = torch.as_tensor(positions)

    def hook(_module: object, _args: object, output: object) -> object:
        hidden = hidden_of(output).clone()
        hidden[rows, places[rows]] = hidden[rows + 1, places[rows + 1]]
        return with_hidden(output, hidden)

    handle = model.block(layer).register_forward_hook(hook)
    try:
        logits: torch.Tensor = model.model(input_ids=ids, attention_mask=mask).logits
    finally:
        handle.remove()
    return logits
