"""What a tokenizer puts around every text, and which of its tokens a model has no embedding for."""

import logging
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from errata.errors import ModelError

__all__ = ["around", "log_remark", "remarks", "without_embedding"]

_SHOWN = 3
log_remark: Callable[[str], None] = logging.getLogger("errata").warning
"""Where remarks on a model go unless something else is named: Python's own log, whose warnings are seen by default."""


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and behind every text."""
    bare, whole = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    for start in range(len(whole) - len(bare) + 1 if bare else 0):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def without_embedding(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[str]:
    """Return the tokens that a matrix of so many rows has no row for, in the order of their ids."""
    if max(len(tokenizer) - 1, *tokenizer.added_tokens_decoder, 0) < rows:
        return []
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    return sorted(beyond, key=beyond.__getitem__)


def remarks(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    lacking: Sequence[str],
    around_text: tuple[list[int], list[int]],
    begins: bool,
) -> list[str]:
    """Return what is unusual about a tokenizer, one line each.

    Args:
        tokenizer: the tokenizer.
        name: the model's name.
        lacking: from `without_embedding`.
        around_text: from `around`.
        begins: whether the model's family needs a beginning token.

    Raises:
        ModelError: when the tokenizer cannot say which characters a token covers, which finding subjects needs.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{name}: its tokenizer ({type(tokenizer).__name__}) does not tell which characters a token covers, so no "
            f"subject can be found. A fast tokenizer is needed: one with a tokenizer.json."
        )
    found = []
    before, behind = around_text
    if begins and not before and len(tokenizer):
        found.append(
            f"{name}: its tokenizer puts no beginning token before a text, without which such a model breaks down. Use "
            f"the tokenizer that belongs to it, or set tokenizer.add_bos_token = True."
        )
    if behind:
        ends = " ".join(map(repr, map(str, tokenizer.convert_ids_to_tokens(behind))))
        found.append(f"{name}: its tokenizer ends every text with {ends}. Prompts are read without it.")
    if lacking:
        shown = ", ".join(lacking[:_SHOWN]) + (", ..." if len(lacking) > _SHOWN else "")
        found.append(
            f"{name}: its tokenizer has {len(lacking)} tokens for which the model has no embedding: {shown}. A text "
            f"that holds one is refused."
        )
    return found
