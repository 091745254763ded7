"""Score (prompt, object) pairs under teacher forcing: the one measurement that all recall probes share."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import EditDataError
from errata.joining import Join, joint
from errata.models import EditableModel
from errata.models.head import logits_in_parts, states_at

__all__ = ["Score", "TokenScores", "score", "score_tokens", "token_budget"]

_Row = tuple[tuple[int, ...], int]
"""What is read of a token row, and the index of its prompt's last token."""

_TOKENS = 16384
"""How many tokens go through a model at once, on a card."""
_CPU_TOKENS = range(256, 2049)
_CPU_NUMBERS = 3 * 2**20
"""How many numbers an MLP's inner layer makes at once on a processor, about, up to a width of 3,072: 12 MiB in float32.
More falls out of its caches and is allocated anew from the system for every layer, and takes up to twice as long."""


@dataclass(frozen=True, slots=True)
class Score:
    """How well a model continues a prompt with an object.

    Args:
        logp: mean log-probability per object token, in nats; NaN from a dead model.
        exact: 1.0 when every object token is the most probable one, else 0.0; NaN from a dead model.
    """

    logp: float
    exact: float


@dataclass(frozen=True, slots=True)
class TokenScores:
    """One row's scored tokens.

    Args:
        logps: log-probability of each, in nats.
        best: whether each is the most probable one.
    """

    logps: Float[Tensor, " n"]
    best: Tensor


def score(model: EditableModel, pairs: Sequence[tuple[str, str]], joins: Sequence[Join] = ()) -> list[Score]:
    """Score objects after prompts: mean log P(token | prompt, earlier object tokens), and whether all are the argmax.

    The mean per token is what kmeng01/rome's `eval_utils_counterfact` and the first paper (2401.07453) compare; exact
    match is the first paper's `rewrite_prompts_correct`.

    Args:
        model: the model; read only.
        pairs: prompt text and object, the object without its leading space.
        joins: for each pair, what its fact says of the space between the two; "auto" for all of them when empty.
    """
    prompts = dict.fromkeys(prompt for prompt, _ in pairs)
    prompt_ids = dict(zip(prompts, model.encode(list(prompts)), strict=True)) if pairs else {}
    said: Sequence[Join] = joins or ["auto"] * len(pairs)
    wanted = [(wanted, joint(prompt, wanted, join)) for (prompt, wanted), join in zip(pairs, said, strict=True)]
    object_ids = {(o, space): model.encode_target(o, join=space) for o, space in dict.fromkeys(wanted)}
    rows = [(prompt_ids[p] + object_ids[o], len(prompt_ids[p])) for (p, _), o in zip(pairs, wanted, strict=True)]
    return [_summary(scores) for scores in score_tokens(model, rows)]


def _summary(scores: TokenScores) -> Score:
    logp = float(scores.logps.double().mean())
    # A NaN row has its argmax somewhere, which may be the object by accident.
    return Score(logp, float(scores.best.all()) if logp == logp else math.nan)


@torch.no_grad()
def score_tokens(model: EditableModel, rows: Sequence[tuple[Sequence[int], int]]) -> list[TokenScores]:
    """Score the tail of each token row in batches of similar length; logits are computed where a token is scored only.

    A row with which another begins is read there. Below the first edited block nothing is run that has been kept.

    Args:
        model: the model; read only.
        rows: token ids, and the index from which on they are scored (at least 1).

    Raises:
        EditDataError: when a row has nothing before its first scored token, or is longer than the model's positions.
    """
    for ids, start in rows:
        if start < 1:
            raise EditDataError(
                f"an empty prompt before {model.tokenizer.decode(list(ids))!r}: {model.name} has no "
                f"beginning-of-sequence token, so nothing can be predicted. Give the prompt a text."
            )
        model.check_length(ids)
    # The last token is only predicted, never read; so objects of one token share their prompt's row.
    asked = [(tuple(ids[:-1]), start - 1) for ids, start in rows]
    longest = _longest(asked)
    read = [longest[row] for row in asked]
    found: list[TokenScores | None] = [None] * len(rows)
    for group in _batches(model, [ids for ids, _ in read]):
        inputs = list(dict.fromkeys(read[i] for i in group))
        line = {row: n for n, row in enumerate(inputs)}
        spans = [(line[read[i]], read[i][1], len(rows[i][0]) - rows[i][1]) for i in group]
        places = dict.fromkeys((row, first + k) for row, first, n in spans for k in range(n))
        with model.reading([end for _, end in inputs]):
            states = states_at(model, [ids for ids, _ in inputs], list(places))
        index = {place: n for n, place in enumerate(places)}
        at = [index[row, first + k] for row, first, n in spans for k in range(n)]
        logps, best = _read(model, states, at, [t for i in group for t in rows[i][0][rows[i][1] :]])
        lengths = [n for _, _, n in spans]
        for i, own, foremost in zip(group, torch.split(logps, lengths), torch.split(best, lengths), strict=True):
            found[i] = TokenScores(own, foremost)
    return [scores for scores in found if scores is not None]


def _read(
    model: EditableModel, states: Float[Tensor, "place d"], at: Sequence[int], wanted: Sequence[int]
) -> tuple[Float[Tensor, " n"], Tensor]:
    """Return, on the host, the log-probabilities of tokens behind places, and whether each is the most probable one."""
    logps, best = [], []
    read: list[int] = []
    for part, logits in logits_in_parts(model, states):
        here = [n for n, place in enumerate(at) if place in part]
        rows = torch.tensor([at[n] - part.start for n in here], device=logits.device)
        tokens = torch.tensor([wanted[n] for n in here], device=logits.device)
        best.append(logits.argmax(-1)[rows] == tokens)
        logps.append(torch.log_softmax(logits, dim=-1)[rows, tokens])
        read += here
    # One copy to the host for all of them.
    order = torch.tensor(read).argsort()
    return torch.cat(logps).cpu()[order], torch.cat(best).cpu()[order]


def token_budget(model: EditableModel, device: torch.device | None = None) -> int:
    """Return how many tokens go through the model at once; the kind of device and the width decide, so runs repeat.

    Args:
        model: the model.
        device: in place of the model's own: where an outline is to be.
    """
    if (device or model.device).type != "cpu":
        return _TOKENS
    return min(max(_CPU_NUMBERS // (4 * model.hidden_size), _CPU_TOKENS[0]), _CPU_TOKENS[-1])


def _batches(model: EditableModel, read: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Yield row indices, shortest first, equal rows together, within the budget of tokens."""
    tokens = token_budget(model)
    group: list[int] = []
    rows = 0
    for i in sorted(range(len(read)), key=lambda i: (len(read[i]), read[i])):
        new = not group or read[i] != read[group[-1]]
        if group and len(read[i]) * (rows + new) > tokens:
            yield group
            group, rows, new = [], 0, True
        group.append(i)
        rows += new
    if group:
        yield group


def _longest(rows: Iterable[_Row]) -> dict[_Row, _Row]:
    """Return for every row the longest one that begins with it and has its prompt's end: what follows is not seen."""
    ordered = sorted(set(rows), key=lambda row: (row[1], row[0]), reverse=True)
    longest: dict[_Row, _Row] = {}
    for row, after in zip(ordered, [None, *ordered], strict=False):
        # Of all rows that begin with this one, one stands right before it.
        begins = after is not None and after[1] == row[1] and after[0][: len(row[0])] == row[0]
        longest[row] = longest[after] if begins and after is not None else row
    return longest
