"""WISE: a second copy of one feed-forward projection, which answers for prompts that move it enough."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from random import Random
from statistics import fmean
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.contexts import ContextSettings, sample_contexts
from errata.editors.gradients import Pair, mean_by_edit, target_log_probs
from errata.editors.irrelevant import IrrelevantTexts
from errata.editors.settings import EditorSettings
from errata.editors.side_memory import RECORD, SideMemory, activation, margins, nonlinearity, through
from errata.editors.statistics import StatisticsStore
from errata.editors.text_source import TextSource
from errata.editors.update import Update
from errata.edits import Fact
from errata.models import EditableModel
from errata.models.hooks import add_to_outputs, capture
from errata.models.lower import repeated_above
from errata.models.prompts import NO_PROMPT, PromptSpans, answer_at

__all__ = ["WISE", "WISESettings"]

_MEASURED = 32  # irrelevant texts from which the unit is taken


class WISESettings(EditorSettings):
    """Settings of WISE. Defaults are EasyEdit's for Llama-2-7B unless said otherwise."""

    typical_depth: ClassVar[float] = 27 / 31
    unpublished: ClassVar[Mapping[str, Any]] = {
        "unit": "output",
        "alpha": 0.5,
        "beta": 2.0,
        "gamma": 1.0,
        "norm_constraint": math.inf,
        "statistics": {"samples": 64, "max_tokens": 16},
    }

    layer: int = Field(ge=0)
    """The layer whose output projection W has a side memory W'. Llama-2-7B 27."""
    lr: float = Field(default=1.0, gt=0)
    """Step of gradient descent on W' (`edit_lr`)."""
    steps: int = Field(default=70, ge=1)
    """Steps at most (`n_iter`)."""
    unit: Literal["absolute", "output"] = "absolute"
    """In what activations are measured: as they stand, as published, or as multiples of u, the median ‖A(x)W‖ of the
    irrelevant texts' tokens on the unedited model; `lr` is then taken times u²/‖A(x)‖². Published margins fit a model
    whose layers put out vectors of the same length; with these units neither width nor scale of a model matters."""
    alpha: float = Field(default=5.0, ge=0)
    """α: an irrelevant text's activation is to stay below this."""
    beta: float = Field(default=20.0, ge=0)
    """β: an edit's activation is to come above this."""
    gamma: float = Field(default=10.0, ge=0)
    """γ: by how much the two are to differ."""
    act_ratio: float = Field(default=0.88, ge=0)
    """A prompt goes through W' when its activation exceeds this times the least of the edits', ε."""
    mask_ratio: float = Field(default=0.2, gt=0, le=1)
    """ρ, the fraction of W' that a shard of edits may change."""
    save_every: int = Field(default=500, ge=1)
    """Edits in one shard (`save_freq`)."""
    merge_every: int = Field(default=1000, ge=1)
    """Edits after which the shards are merged (`merge_freq`)."""
    merge: Literal["retrieve", "merge"] = "retrieve"
    """What is done with merged shards: "retrieve" keeps a side memory for every `merge_every` edits and takes the one
    with the largest activation (WISE-Retrieve), "merge" folds them into one (WISE-Merge)."""
    density: float = Field(default=0.53, gt=0, le=1)
    """The fraction of a shard's change that TIES keeps (`densities`)."""
    norm_constraint: float = Field(default=1.0, gt=0)
    """An entry of W' stays within this of W. A model without published settings has no such bound: of what size its
    entries are is not known."""
    activation: Literal["paper", "published"] = "paper"
    """‖A(x)(W' − W)‖ ("paper"), or the distance after the model's nonlinearity, as in the published code."""
    loss_stop: float = Field(default=0.02, ge=0)
    """Stop once the loss is below this."""
    contexts: ContextSettings = ContextSettings(lengths=((5, 5), (10, 5)), starts=("I", "You", "Because", "Yes", "Q: "))
    """Prefixes under which a fact is taught."""
    statistics: TextSource = TextSource(samples=1000, max_tokens=32)
    """Text whose pieces are the irrelevant prompts x_i, of which every edit draws one; the published code takes zsRE's
    locality prompts, questions of some ten tokens."""


class WISE(Editor):
    """Answer by A(x)W' where Δ(x) = ‖A(x)(W' − W)‖ > ε, else by A(x)W (2405.14768, eq. 2 to 8).

    W' minimises −log P(o*|x_e) + max(0, Δ(x_i) − α) + max(0, β − Δ(x_e)) + max(0, γ − Δ(x_e) + Δ(x_i)) in a random ρ of
    its entries for each shard of edits; TIES merges shards. Δ is a mean over a prompt's tokens, and a whole text goes
    the way of its prompt; the published code averages over whatever is read, objects included. Facts of a batch are
    written one after the other, which is the paper's setting; the published code takes the mean of their losses.
    """

    name: ClassVar[str] = "wise"
    paper: ClassVar[str] = "2405.14768"
    Settings: ClassVar[type[WISESettings]] = WISESettings

    def __init__(self, settings: WISESettings) -> None:
        self.settings = settings
        self._asleep = False
        self._touched: set[int] = set()

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Sample prefixes, and read the irrelevant texts."""
        s, self._path = self.settings, model.mlp_out(self.settings.layer)
        self._nonlinearity = nonlinearity(model) if s.activation == "published" else None
        like, shards = model.weight(self._path), (s.mask_ratio, s.save_every, s.merge_every)
        like, fold = like.to(torch.promote_types(like.dtype, torch.float32)), s.merge == "merge"
        self._memory = SideMemory(like, rng.getrandbits(48), *shards, fold=fold, density=s.density)
        self._templates = ["{}", *sample_contexts(model, s.contexts, rng)]
        self._texts = IrrelevantTexts(model, s.statistics, self.name)
        self._unit, self._rate = self._measured(model) if s.unit == "output" else (1.0, s.lr)

    @torch.no_grad()
    def _measured(self, model: EditableModel) -> tuple[float, float]:
        """Return u, and the step of W' that is as large for it on every model."""
        # Medians: many models answer the first token of a text with a vector far longer than all others.
        rows = self._texts.draw(_MEASURED, Random(0), besides=())
        tokens = model.pad(rows)
        with capture(model.model, [self._path]) as seen:
            model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False)
        real, here = tokens.attention_mask.bool(), seen[self._path]
        unit = float(here.output[real].double().norm(dim=-1).median())
        received = float(here.input[real].double().pow(2).sum(-1).median())
        return unit, self.settings.lr * unit**2 / received

    def attach(self, model: EditableModel) -> Callable[[], None]:
        """Route every prompt through the side memory it moves, if any."""
        model.reads_whole = True
        routes = torch.zeros(0, dtype=torch.long)

        def route(received: Tensor, output: Tensor, spans: PromptSpans) -> Tensor:
            nonlocal routes
            if self._asleep or not (memory := self._memory).changes:
                return output
            moved = [through(change, received) for change in memory.changes.values()]
            sizes = torch.stack([activation(move, output, spans, self._nonlinearity) for move in moved])
            chosen = memory.chosen(sizes, self.settings.act_ratio)
            # What continues a prompt goes its way.
            held = routes if len(routes) == len(chosen) else torch.full_like(chosen, -1)
            routes = torch.where(spans.ends == NO_PROMPT, held.to(chosen), chosen)
            for i, move in enumerate(moved):
                output = torch.where((routes == i)[:, None, None], output + move.to(output), output)
            return output

        detach = ExitStack()
        detach.callback(answer_at(model, self._path, route))
        detach.callback(setattr, model, "reads_whole", False)
        return detach.close

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return what each fact changes in its shard of W'; facts of a batch are written one after the other."""
        memory, touched = self._memory.fork(), set(self._touched)
        kept, found = dict[str, Tensor](), []
        self._asleep = True
        try:
            for i, fact in enumerate(batch):
                naming = self._texts.naming([fact])
                touched.update(naming)
                record, figures = self._write(model, fact, memory, touched)
                memory.add(record)
                found.append(figures)
                kept |= {f"{name}:{i}": tensor for name, tensor in record.items()}
                kept[f"touched:{i}"] = torch.tensor(naming, dtype=torch.long)
        finally:
            self._asleep = False
        losses, nlls, sizes = zip(*found, strict=True)
        diagnostics = {"loss": fmean(losses), "target_probability": math.exp(-fmean(nlls)), "activation": min(sizes)}
        return Update({}, diagnostics, kept)

    def _write(
        self, model: EditableModel, fact: Fact, memory: SideMemory, touched: set[int]
    ) -> tuple[dict[str, Tensor], tuple[float, float, float]]:
        """Fit W' to a fact; return what to remember, and its loss, −log P(o*|x_e) and Δ(x_e)."""
        s = self.settings
        before, mask = memory.present(), memory.mask(memory.shard())
        side = before.clone().requires_grad_(True)
        pairs, count = self._pairs(model, fact, memory, touched), len(self._templates)
        ends = torch.tensor([len(prompt) - 1 for prompt, _ in pairs], device=model.device)
        spans = PromptSpans(torch.zeros_like(ends), ends)
        seen: dict[str, Tensor] = {}

        def add(received: Tensor, output: Tensor) -> Tensor:
            moved = through(side, received)
            seen["size"] = activation(moved, output, spans, self._nonlinearity)
            return output + moved.to(output)

        with repeated_above(model, s.layer):
            for _ in range(s.steps):
                with add_to_outputs(model.model, {self._path: add}):
                    log_probs, rows = target_log_probs(model, pairs)
                nll = -mean_by_edit(log_probs, rows)[:count].mean()
                inside, outside = seen["size"][:count], seen["size"][count:]
                loss = nll + margins(inside / self._unit, outside / self._unit, s.alpha, s.beta, s.gamma)
                if loss <= s.loss_stop:
                    break
                (gradient,) = torch.autograd.grad(loss, side)
                with torch.no_grad():
                    side.sub_(self._rate * gradient * mask).clamp_(-s.norm_constraint, s.norm_constraint)
        size = inside.detach().mean()
        return memory.record(side.detach() - before, size), (loss.item(), nll.item(), float(size))

    def _pairs(self, model: EditableModel, fact: Fact, memory: SideMemory, touched: set[int]) -> list[Pair]:
        """Return a fact behind every prefix with its target, then an irrelevant text.

        A text that names a subject edited so far is not irrelevant: to keep its activation low would undo the edit.
        """
        target = model.encode_target(fact.target_new, fact.text, fact.join)
        prompts = model.encode([t.replace("{}", fact.text, 1) for t in self._templates])
        model.check_length(max(prompts, key=len) + target, f"fact {fact.id!r} behind a prefix")
        (other,) = self._texts.draw(1, Random(f"{memory.seed}-{memory.edits}"), besides=touched)
        return [*((ids, target) for ids in prompts), (other, other[-1:])]

    def remember(self, update: Update) -> None:
        """Add edits to their shards, merge the shards of a full group, and keep off texts that name their subjects."""
        for i in range(sum(name.startswith("change:") for name in update.memory)):
            self._memory.add({name: update.memory[f"{name}:{i}"] for name in RECORD})
            self._touched.update(update.memory[f"touched:{i}"].tolist())

    def state_dict(self) -> dict[str, Any]:
        """Return the side memories, the prefixes, and the seed of masks and irrelevant texts."""
        return {**self._memory.state_dict(), "templates": self._templates[:], "touched": sorted(self._touched)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self._memory.load_state_dict(state)
        self._templates, self._touched = list(state["templates"]), set(state["touched"])
