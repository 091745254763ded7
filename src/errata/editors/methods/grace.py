"""GRACE: a codebook beside one layer, which answers for activations that fall near an edit's."""

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.codebook import Codebook
from errata.editors.gradients import pairs_of, target_log_probs
from errata.editors.projections import projection
from errata.editors.settings import EditorSettings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Update
from errata.edits import Fact
from errata.models import EditableModel
from errata.models.hooks import add_to_outputs, capture
from errata.models.lower import repeated_above
from errata.models.prompts import NO_PROMPT, PromptSpans, answer_at

__all__ = ["GRACE", "GRACESettings"]


class GRACESettings(EditorSettings):
    """Settings of GRACE. Defaults are those of Thartvigsen/GRACE unless said otherwise."""

    typical_depth: ClassVar[float] = 35 / 47

    layer: int = Field(ge=0)
    """The layer with the codebook. GPT2-XL 35, Llama-2-7B 27."""
    module: str | None = None
    """Path of the module inside the block; the feed-forward output projection when absent. GPT2-XL `mlp.c_fc`,
    Llama-2-7B `mlp.down_proj`."""
    epsilon: float = Field(default=1.0, ge=0)
    """ε_init, the radius of a new key, in the units of the module's input."""
    lr: float = Field(default=1.0, gt=0)
    """Adam's step for the value (`edit_lr`)."""
    steps: int = Field(default=100, ge=1)
    """Steps for the value (`n_iter`)."""
    loss_stop: float = Field(default=0.0, ge=0)
    """Stop once the loss is below this. 0 in the published code, which takes every step."""
    init: Literal["cold", "warm"] = "cold"
    """What a value starts from: uniform noise in [0, 1), or what the module would have answered (`val_init`)."""
    replace: Literal["last", "all", "prompt"] = "last"
    """Where the value stands in for the module's output: at the prompt's last token, at every token, or at the prompt's
    tokens before its last, as the published `replace_prompt` has it."""
    expand: Literal["coverage", "moving_average"] = "coverage"
    """When an edit with the same label falls beside the ball: widen it, or also move its key halfway (`eps_expand`)."""
    conflicts: Literal["paper", "published"] = "paper"
    """How labels are compared. "paper": token by token, and an edit of the very prompt of an earlier one replaces its
    answer. "published": by the mean of the label row, whose −100 for prompt tokens it counts in; and a repeated prompt
    leaves two keys of radius −1e-5 and 0, of which neither answers."""


class GRACE(Editor):
    """Answer vᵢ instead of f(h) where d(h, kᵢ) ≤ εᵢ for the nearest key (2211.11031, eq. 1 and algorithm 1).

    h is the module's input at the prompt's last token. An edit whose h is further than εᵢ + ε_init from every key adds
    an entry; one with the same label widens the ball; one with another label splits it: both radii become d/2. Then
    the entry's value is trained to give the target. No weight changes.
    """

    name: ClassVar[str] = "grace"
    paper: ClassVar[str] = "2211.11031"
    Settings: ClassVar[type[GRACESettings]] = GRACESettings

    def __init__(self, settings: GRACESettings) -> None:
        self.settings = settings
        self._seed = 0
        self._edits = 0
        self._asleep = False

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Begin an empty codebook."""
        self._path = self._module(model)
        self._seed = rng.getrandbits(48)
        d_out, d_in = model.weight(self._path).shape
        precision = torch.promote_types(model.dtype, torch.float32)
        self._book = Codebook.empty(d_in, d_out, torch.empty(0, dtype=precision, device=model.device))

    def _module(self, model: EditableModel) -> str:
        s = self.settings
        return projection(model, s.module, s.layer) if s.module else model.mlp_out(s.layer)

    def attach(self, model: EditableModel) -> Callable[[], None]:
        """Let the module defer to the codebook."""

        def defer(received: Tensor, output: Tensor, spans: PromptSpans) -> Tensor:
            ends = spans.ends
            rows = torch.arange(len(ends), device=ends.device)
            if self._asleep or not len(self._book):
                return output
            hit, entries = self._book.hits(received[rows, ends.clamp(min=0)])
            return self._replaced(output, ends, hit & (ends != NO_PROMPT), self._book.values[entries])

        return answer_at(model, self._module(model), defer)

    def _replaced(self, output: Tensor, ends: Tensor, hit: Tensor, values: Tensor) -> Tensor:
        """Put values where the rows that hit have theirs."""
        at = torch.arange(output.shape[1], device=output.device)
        last = ends[:, None]
        where = {"last": at == last, "prompt": at < last, "all": at >= 0}[self.settings.replace]
        return torch.where((hit[:, None] & where)[..., None], values.to(output)[:, None], output)

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return what the batch changes in the codebook: entries added or retrained, radii shrunk."""
        book = self._book.copy()
        self._asleep = True  # an attached codebook keeps out of what is computed with the copy
        try:
            losses = [self._learn(model, book, fact, self._edits + i) for i, fact in enumerate(batch)]
        finally:
            self._asleep = False
        loss = sum(losses) / len(losses)
        diagnostics = {"loss": loss, "target_probability": math.exp(-loss), "entries": float(len(book))}
        return Update({}, diagnostics, {**book.since(self._book), "edits": torch.tensor([self._edits + len(batch)])})

    def _learn(self, model: EditableModel, book: Codebook, fact: Fact, number: int) -> float:
        """Give one fact its entry, train the entry's value, and return the last loss."""
        s = self.settings
        pairs = pairs_of(model, [fact])
        ((prompt, target),) = pairs
        end = len(prompt) - 1
        # Of the prompt alone: the same prompt gives the same query, whatever its target.
        with torch.no_grad(), capture(model.model, [self._path]) as seen:
            model.model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False)
        here = seen[self._path]
        value = here.output[0, end].to(book.values)
        if s.init == "cold":
            generator = torch.Generator().manual_seed(self._seed + number)
            value = torch.rand(1, len(value), generator=generator, dtype=book.values.dtype)[0].to(value)
        label = torch.tensor([-100] * len(prompt) + target, device=model.device)
        entry = self._place(book, here.input[0, end], value, label, number)

        ends = torch.tensor([end], device=model.device)
        answers, chosen = book.hits(here.input[:, end])
        value = book.values[entry].clone().requires_grad_(True)
        optimiser = torch.optim.Adam([value], lr=s.lr)

        def answer(_received: Tensor, output: Tensor) -> Tensor:
            return self._replaced(output, ends, answers, value[None] if int(chosen) == entry else book.values[chosen])

        loss = float("nan")
        with repeated_above(model, s.layer):
            for _ in range(s.steps):
                with add_to_outputs(model.model, {self._path: answer}):
                    nll = -target_log_probs(model, pairs)[0].mean()
                loss = nll.item()
                # Where published conflicts leave the entry without an answer, there is nothing to train.
                if loss < s.loss_stop or not nll.requires_grad:
                    break
                value.grad = torch.autograd.grad(nll, value)[0]
                optimiser.step()
        book.values[entry] = value.detach()
        return loss

    def _place(self, book: Codebook, query: Tensor, value: Tensor, label: Tensor, number: int) -> int:
        """Add, widen or split (algorithm 1), and return the index of the entry to train."""
        s = self.settings
        if not len(book):
            return book.add(query, value, s.epsilon, label, number)
        distances, entries = book.nearest(query[None])
        distance, near = distances[0], int(entries[0])
        if distance > s.epsilon + book.epsilons[near]:
            return book.add(query, value, s.epsilon, label, number)
        if self._agree(book.labels[near], label):
            if distance > book.epsilons[near]:
                if s.expand == "moving_average":
                    book.keys[near] = (book.keys[near] + query.to(book.keys)) / 2
                book.epsilons[near] = distance
            return near
        if s.conflicts == "paper" and not distance:
            epsilon = float(book.epsilons[near])
            book.drop(near)
            return book.add(query, value, epsilon, label, number)
        added = book.add(query, value, 0.0, label, number)
        book.epsilons[added] = distance / 2
        book.epsilons[near] = distance / 2 - 1e-5
        return added

    def _agree(self, old: Tensor, new: Tensor) -> bool:
        """Return whether two labels are the same, by the setting's measure."""
        if self.settings.conflicts == "published":
            return bool(old[old != -1].float().mean() == new.float().mean())
        return torch.equal(old[old >= 0], new[new >= 0])

    def remember(self, update: Update) -> None:
        """Enter what the edit changes in the codebook."""
        self._book.enter(update.memory)
        self._edits = int(update.memory["edits"])

    def state_dict(self) -> dict[str, Any]:
        """Return the codebook, and what cold values are drawn from."""
        return {**self._book.copy().tensors(), "seed": self._seed, "edits": self._edits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the codebook."""
        self._seed, self._edits = state["seed"], state["edits"]
        self._book = Codebook(**{k: state[k].clone().to(t.device) for k, t in self._book.tensors().items()})
