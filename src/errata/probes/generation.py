"""Continue texts, in batches of similar length."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.errors import EditDataError
from errata.models import EditableModel
from errata.models.kernels import kernels_for
from errata.probes.reading import Cached, Common, Reading, Whole
from errata.probes.scoring import token_budget

__all__ = ["generate", "kept_bytes"]

_KEPT = 2**28  # bytes of attention keys and values in a batch; an eighth of the model's weights where that is more
_PACKING_PAYS = 8  # tokens to add: laying the matrices out takes as long as some three to six passes save


@torch.no_grad()
def generate(
    model: EditableModel,
    prompts: Sequence[str],
    new_tokens: int,
    until: Sequence[str] = (),
    *,
    top_k: int = 1,
    generators: Sequence[torch.Generator] = (),
) -> list[str]:
    """Continue each prompt with its most probable tokens, or a sample of them, and return only what was added.

    Prompts of similar length go through the model together; a beginning that all have in common is read once. A
    continuation ends at an end-of-sequence token, at the model's last position, or, in a dead model, at the first NaN:
    then there is no most probable token. (`transformers.generate` would go on with token 0, and would obey whatever
    repetition penalties the model's directory suggests.)

    Args:
        model: the model; read only.
        prompts: the texts.
        new_tokens: how many tokens to add at most.
        until: texts before which a continuation ends as well.
        top_k: with `generators`, sample among so many of the most probable tokens.
        generators: what each prompt's sample is drawn with; none: the most probable token is taken.
    """
    if not prompts:
        return []
    rows = model.encode(list(prompts))
    for ids in rows:
        if not ids:
            raise EditDataError(f"an empty prompt: {model.name} has nothing to continue. Give it a text.")
        model.check_length(ids)
    made: list[list[int]] = [[] for _ in rows]
    common = Common(model, rows)
    groups = list(_groups(model, [len(ids) for ids in rows], common.length, new_tokens))
    pays = new_tokens >= _PACKING_PAYS and not model.reads_whole
    blocks = [model.block(i) for i in range(model.n_layers)]
    kernels = kernels_for(blocks, max(map(len, groups)) if pays else None, back=False)
    for group in groups:
        chosen = [rows[i] for i in group]
        reading = Whole(model, chosen) if model.reads_whole else Cached(model, chosen, common, new_tokens, kernels)
        draw = [generators[i] for i in group] if generators else []
        choose = partial(_sampled, top_k=top_k, generators=draw) if draw else _most_probable
        for i, ids in zip(group, _continue(model, chosen, reading, new_tokens, until, choose), strict=True):
            made[i] = ids
    texts = [str(model.tokenizer.decode(ids, skip_special_tokens=True)) for ids in made]
    return [text[: min((at for end in until if (at := text.find(end)) >= 0), default=len(text))] for text in texts]


def kept_bytes(weights: int) -> int:
    """Return the bytes that attention keys and values of continued texts take at most, beside so many of weights."""
    return max(_KEPT, weights // 8)


def _groups(model: EditableModel, lengths: Sequence[int], common: int, new_tokens: int) -> Iterator[list[int]]:
    """Yield indices of rows, shortest first, within the budgets of tokens read at once and of what is kept of them."""
    weights = sum(p.numel() for p in model.model.parameters()) * model.dtype.itemsize
    kept = kept_bytes(weights) // (2 * model.n_layers * model.hidden_size * model.dtype.itemsize)
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        rows = len(group) + 1
        if group and (rows * (lengths[i] - common) > token_budget(model) or rows * (lengths[i] + new_tokens) > kept):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _continue(
    model: EditableModel,
    rows: Sequence[Sequence[int]],
    reading: Reading,
    new_tokens: int,
    until: Sequence[str],
    choose: Callable[[Float[Tensor, "row vocab"]], Int[Tensor, " row"]],
) -> list[list[int]]:
    """Add tokens to rows; a row that has come to one of the texts `until` is left at that."""
    ends = _end_ids(model)
    made: list[list[int]] = [[] for _ in rows]
    running = [True] * len(rows)
    last: Int[Tensor, " row"] | None = None
    for _ in range(new_tokens):
        logits = reading.after(last)
        last = choose(logits)
        alive = (~logits.isnan().any(-1)).tolist()
        for i, token in enumerate(last.tolist()):
            full = len(rows[i]) + len(made[i]) >= model.positions
            running[i] = running[i] and alive[i] and token not in ends and not full
            if running[i]:
                made[i].append(token)
                running[i] = not _holds(model, made[i], until)
        if not any(running):
            break
    return made


def _most_probable(logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    return logits.argmax(-1)


def _sampled(
    logits: Float[Tensor, "row vocab"], top_k: int, generators: Sequence[torch.Generator]
) -> Int[Tensor, " row"]:
    """Draw each row's token among its most probable ones, on the CPU, so that a seed means the same everywhere."""
    top = logits.double().cpu().nan_to_num().topk(min(top_k, logits.shape[-1]))
    shares = torch.softmax(top.values, -1)
    drawn = [torch.multinomial(row, 1, generator=g) for row, g in zip(shares, generators, strict=True)]
    return top.indices.gather(1, torch.stack(drawn))[:, 0].to(logits.device)


def _holds(model: EditableModel, ids: Sequence[int], texts: Sequence[str]) -> bool:
    """Say whether one of the texts has just been completed; no text has more tokens than bytes."""
    if not texts:
        return False
    last = list(ids[-max(len(text.encode()) for text in texts) :])
    tail = str(model.tokenizer.decode(last, skip_special_tokens=True))
    return any(text in tail for text in texts)


def _end_ids(model: EditableModel) -> set[int]:
    """Return the tokens that end a text, of the tokenizer and of the model's generation settings."""
    ends = {model.tokenizer.eos_token_id}
    configured = getattr(model.model.generation_config, "eos_token_id", None)
    ends.update(configured if isinstance(configured, list) else [configured])
    return {e for e in ends if isinstance(e, int)}
