"""Let something else write what a model's last block would, row by row, from the end of a prompt on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from errata.models import EditableModel
from errata.models.hooks import cache_given, hidden_of
from errata.models.prompts import NO_PROMPT, PromptSpans, answer_at

__all__ = ["Route", "Routes"]

Choose = Callable[
    [Float[Tensor, "row pos d"], Bool[Tensor, "row pos"], Int[Tensor, " row"]],
    list[int | None],
]


@dataclass(frozen=True)
class Route:
    """Say that an edit answers in a row.

    Args:
        edit: which.
        tokens: the row's ids, without padding.
        end: the index of its prompt's last token.
    """

    edit: int
    tokens: list[int]
    end: int


@dataclass
class _Pass:
    """What the forward pass under way has been given, and what one of its blocks has made of it."""

    ids: Int[Tensor, "row pos"]
    real: Bool[Tensor, "row pos"]
    continues: bool
    states: Tensor | None = None


class Routes:
    """Choose an edit for every prompt, once, and replace the last block's output by its answer.

    Args:
        model: the model; no weight is touched.
        layer: the block, below the last, by whose output an edit is chosen.
        choose: a function of that output, of which positions are prompt, and of the index of every row's last prompt
            token, which returns an edit for each row or None.
        answer: a function that returns the last block's output at a route's end and as many tokens after it as there
            is an answer for.
    """

    def __init__(
        self,
        model: EditableModel,
        layer: int,
        choose: Choose,
        answer: Callable[[Sequence[Route]], list[Float[Tensor, "answered d"]]],
    ) -> None:
        self._model, self._layer, self._choose, self._answer = model, layer, choose, answer
        self._pass: _Pass | None = None
        self._held: list[Route | None] = []

    def attach(self) -> Callable[[], None]:
        """Begin to answer, and return a function that ends it."""
        model = self._model
        model.reads_whole = True  # a part of a prompt does not tell its scope
        handles = [
            model.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.block(self._layer).register_forward_hook(self._see),
        ]
        detach = answer_at(model, model.block_path(model.n_layers - 1), self._replace)

        def take_off() -> None:
            detach()
            for handle in handles:
                handle.remove()
            model.reads_whole = False

        return take_off

    def _begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask, cache = kwargs.get("attention_mask"), cache_given(kwargs)
        self._pass = None
        if isinstance(ids, Tensor):
            real = torch.ones_like(ids, dtype=torch.bool)
            if isinstance(mask, Tensor) and mask.ndim == 2:
                real = mask[:, -ids.shape[1] :].bool()
            self._pass = _Pass(ids, real, cache is not None and cache.get_seq_length() > 0)

    def _see(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if self._pass is not None:
            self._pass.states = hidden_of(output)

    @torch.no_grad()
    def _replace(self, _received: Tensor, output: Tensor, spans: PromptSpans) -> Tensor:
        # Blocks are also run by themselves, with no pass of the model's around them.
        now, self._pass, ends = self._pass, None, spans.ends
        if now is None or now.states is None or now.states.shape[:2] != output.shape[:2]:
            return output
        # Positions of the pass at which each row's tokens begin; behind a cache some have been read before.
        begins = now.real.long().argmax(1).tolist()
        tokens = [row[real].tolist() for row, real in zip(now.ids, now.real, strict=True)]
        routes: list[Route | None] = [None] * len(tokens)
        for i, edit in enumerate(self._chosen(now, ends)):
            held = self._held[i] if now.continues and len(self._held) == len(tokens) else None
            if ends[i] == NO_PROMPT and held is not None:
                begins[i] -= len(held.tokens)
                routes[i] = Route(held.edit, held.tokens + tokens[i], held.end)
            elif edit is not None:
                routes[i] = Route(edit, tokens[i], int(ends[i]) - begins[i])
        self._held = routes
        taken = [i for i, route in enumerate(routes) if route is not None]
        if not taken:
            return output
        output = output.clone()
        for i, states in zip(taken, self._answer([r for r in routes if r is not None]), strict=True):
            route = routes[i]
            assert route is not None
            first = begins[i] + route.end
            skip = max(0, -first)  # answered in an earlier pass
            output[i, first + skip : first + len(states)] = states[skip:].to(output)
        return output

    def _chosen(self, now: _Pass, ends: Int[Tensor, " row"]) -> list[int | None]:
        """Return the edit of every row that holds a prompt's end."""
        assert now.states is not None
        if bool((ends == NO_PROMPT).all()):
            return [None] * len(ends)
        prompt = now.real & (torch.arange(now.ids.shape[1], device=ends.device) <= ends[:, None])
        chosen = self._choose(now.states, prompt, ends)
        return [None if end == NO_PROMPT else edit for edit, end in zip(chosen, ends.tolist(), strict=True)]
