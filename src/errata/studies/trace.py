"""Causal tracing: which hidden states, restored into a corrupted run, bring the fact back."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.edits import Fact
from errata.errors import AnalysisError, ConfigError
from errata.models import EditableModel, check_answers
from errata.models.head import log_probabilities
from errata.models.hooks import add_to_outputs, capture
from errata.models.replay import UpperLayers, multiplies_bfloat16
from errata.probes.scoring import score_tokens

__all__ = ["CLASSES", "SITES", "Trace", "estimate", "known_facts", "trace"]

SITES = ("block", "mlp", "attention")
CLASSES = ("first subject", "middle subject", "last subject", "first later", "later", "last")
"""Classes of positions, as in ROME's Figure 2. A subject's only token is "last subject", at a prompt's end as well."""

_FILLED = 64  # rows, of which every batch has a multiple


@dataclass(frozen=True)
class Trace:
    """The outcome of a causal tracing.

    Args:
        rows: fact, site, layer, position, where (its class), clean, corrupted and restored probability of the object,
            and effect = restored − corrupted; one row for each restored place.
        noise: the standard deviation of the noise, in the embeddings' units.
    """

    rows: pl.DataFrame
    noise: float

    def averages(self) -> pl.DataFrame:
        """Return the average indirect effect for each site, class and layer: over positions, then over facts."""
        by_fact = self.rows.group_by("fact", "site", "where", "layer").agg(pl.col("effect").mean())
        return (
            by_fact.group_by("site", "where", "layer")
            .agg(pl.col("effect").mean(), pl.len().alias("facts"))
            .with_columns(pl.col("site").cast(pl.Enum(SITES)), pl.col("where").cast(pl.Enum(CLASSES)))
            .sort("site", "where", "layer")
        )

    def peak(self, site: str = "mlp", where: str = "last subject") -> int:
        """Return the layer with the highest average indirect effect; the layer that ROME edits, by default."""
        chosen = self.averages().filter(pl.col("site") == site, pl.col("where") == where)
        return int(chosen.sort("effect", descending=True)["layer"][0])


@dataclass(frozen=True)
class _Place:
    """One restoration at `site`, in a window of layers around `layer`; `start` is the first block that it changes."""

    site: str
    layer: int
    layers: range
    start: int


@torch.no_grad()
def known_facts(model: EditableModel, facts: Sequence[Fact], n: int) -> list[Fact]:
    """Return the first n facts whose true object begins with the model's most probable next token.

    Raises:
        AnalysisError: when there is none: what a model does not know cannot be traced in it.
    """
    check_answers(model)
    told = [fact for fact in facts if fact.target_true]
    found: list[Fact] = []
    for i in range(0, len(told), 2 * n):
        asked = told[i : i + 2 * n]
        prompts = model.encode([fact.text for fact in asked])
        answers = [model.encode_target(fact.target_true, fact.text, fact.join)[0] for fact in asked]
        scores = score_tokens(model, [([*ids, answer], len(ids)) for ids, answer in zip(prompts, answers, strict=True)])
        found += [fact for fact, own in zip(asked, scores, strict=True) if bool(own.best[0])]
        if len(found) >= n:
            return found[:n]
    if not found:
        silent = len(facts) - len(told)
        without = f" ({silent} of them have no target_true)" if silent else ""
        raise AnalysisError(
            f"{model.name} predicts the true object of none of these {len(facts)} facts{without}, so there is nothing "
            f"to trace. Give facts that it knows; --all traces those it does not know as well."
        )
    return found


@torch.no_grad()
def trace(
    model: EditableModel,
    facts: Sequence[Fact],
    generator: torch.Generator,
    *,
    noise: float = 3.0,
    samples: int = 10,
    window: int = 10,
    batch: int = 256,
    matrices: Literal["model", "bfloat16"] = "model",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trace:
    """Measure the indirect effect of every layer and position on P(o) (2202.05262 §2.1).

    Three runs: clean; corrupted, with ε ~ N(0, (noise · σ)²) added to the embeddings of the subject's tokens, σ the
    standard deviation of all these embeddings; and corrupted with the clean state restored at one place. o is the first
    token of `target_true`, or the model's own prediction where a fact has none.

    Below the restored layer and before the restored position, such a run is the corrupted one: only what is above and
    behind is computed, with the corrupted run's attention keys and values.

    Args:
        model: the model; it is only read.
        facts: what to trace; facts that the model does not know only blur the picture.
        generator: a seeded generator on the CPU.
        noise: in standard deviations.
        samples: draws of the noise for each fact, the same for each of its places.
        window: how many layers are restored together at "mlp" and "attention", centred; "block" restores one.
        batch: runs that go through a block together.
        matrices: precision in which blocks read their matrices in runs with a restored state. "bfloat16" takes effect
            for a float32 model on a device with instructions for such products; states and norms stay in float32.
        progress: called with (done, total) parts of the work, several of them a fact.

    Raises:
        AnalysisError: when there is no fact, or the model answers one with NaN.
        ConfigError: when a number is out of range.
    """
    if not facts:
        raise AnalysisError("there is no fact to trace; give at least one.")
    if min(samples, window, batch) < 1 or noise < 0:
        raise ConfigError(
            f"samples, window and batch must be at least 1 and noise at least 0; "
            f"found {samples=}, {window=}, {batch=}, {noise=}."
        )
    check_answers(model)
    placed = [_placed(model, fact) for fact in facts]
    subject_ids = torch.tensor([ids[i] for ids, span in placed for i in span], device=model.device)
    embeddings = model.module(model.family.embeddings)(subject_ids).float()
    deviation = noise * float(embeddings.std())
    places = list(_places(model.n_layers, window))
    done, total = 0, sum(_tokens(ids, span) for ids, span in placed)
    rows = []
    for fact, (ids, span) in zip(facts, placed, strict=True):
        shift = deviation * torch.randn(samples, len(span), model.hidden_size, generator=generator)
        one = _Traced(model, fact, ids, span, shift.to(model.device, model.dtype), places, batch, matrices)
        for position in range(span[0], len(ids)):
            one.restore(position)
            done += len(ids) - position
            progress(done, total)
        rows += one.rows()
    return Trace(pl.DataFrame(rows), deviation)


@torch.no_grad()
def estimate(
    model: EditableModel,
    facts: Sequence[Fact],
    *,
    samples: int = 10,
    window: int = 10,
    batch: int = 256,
    matrices: Literal["model", "bfloat16"] = "model",
) -> float:
    """Return about how many seconds `trace` will take, from what the first block or two take here."""
    placed = [_placed(model, fact) for fact in facts]
    tokens = torch.tensor([placed[0][0]] * batch, device=model.device)
    layers = min(2, model.n_layers)
    halved = matrices == "bfloat16" and multiplies_bfloat16(model.device.type)
    as_read = torch.autocast(model.device.type, torch.bfloat16) if halved else nullcontext()
    for _ in range(2):  # the first time, memory is asked for
        began = time.perf_counter()
        with as_read, capture(model.model, [model.block_path(layers - 1)]):
            model.model(input_ids=tokens, use_cache=False)
        taken = time.perf_counter() - began
    blocks = sum(model.n_layers - place.start for place in _places(model.n_layers, window)) * samples
    return taken / (layers * tokens.numel()) * blocks * sum(_tokens(ids, span) for ids, span in placed)


class _Traced:
    """One fact's runs: the clean one, and the corrupted one with places restored, a position at a time."""

    def __init__(
        self,
        model: EditableModel,
        fact: Fact,
        ids: list[int],
        span: list[int],
        shift: Float[Tensor, "draw subject d"],
        places: Sequence[_Place],
        batch: int,
        matrices: Literal["model", "bfloat16"],
    ) -> None:
        self._model, self._fact, self._ids, self._span, self._shift = model, fact, ids, span, shift
        self._batch, self._halved = batch, matrices == "bfloat16"
        # By where they begin: what has begun at a layer stands before what has not.
        self._places = sorted(places, key=lambda place: place.start)
        paths = [_path(model, site, layer) for site in SITES for layer in range(model.n_layers)]
        with capture(model.model, paths) as seen:
            model.model(torch.tensor([ids], device=model.device), use_cache=False)
        self._clean: dict[str, Float[Tensor, "position d"]] = {path: seen[path].output[0] for path in paths}
        end = self._clean[model.block_path(model.n_layers - 1)][-1:]
        self._answer = int(model.logits(end).argmax())
        if fact.target_true:
            self._answer = model.encode_target(fact.target_true, fact.text, fact.join)[0]
        (self._known,) = self._said(end).tolist()
        if self._known != self._known:
            raise AnalysisError(
                f"{model.name} answers NaN to {fact.text!r} (fact {fact.id}), so there is nothing to trace. "
                f"Its weights may hold NaN, or its precision be too small: --dtype float32."
            )
        self._corrupted = 0.0
        self._rows: list[tuple[_Place, int, float]] = []

    def rows(self) -> list[dict[str, object]]:
        """Return what was found, a row a place."""
        self._rows.sort(key=lambda row: (SITES.index(row[0].site), row[0].layer, row[1]))
        return [
            {
                "fact": self._fact.id,
                "site": place.site,
                "layer": place.layer,
                "position": position,
                "where": _class_of(position, self._span, len(self._ids)),
                "clean": self._known,
                "corrupted": self._corrupted,
                "restored": restored,
                "effect": restored - self._corrupted,
            }
            for place, position, restored in self._rows
        ]

    def restore(self, position: int) -> None:
        """Restore every place at a position, in every draw of the noise."""
        model, draws = self._model, len(self._shift)
        blocks = [model.block_path(layer) for layer in range(model.n_layers)]
        with add_to_outputs(model.model, {model.family.embeddings: self._corrupt}):
            upper = UpperLayers(
                model,
                0,
                [self._ids] * draws,
                [position] * draws,
                watch=tuple(blocks),
                rerun=True,
                bfloat16=self._halved,
                often=False,
            )
        entering = [upper.hidden, *(upper.outputs[path] for path in blocks)]
        self._corrupted = float(self._said(entering[-1][:, -1]).mean())
        rows = len(self._places) * draws
        lines = torch.arange(draws, device=model.device).repeat(len(self._places))
        hidden = entering[0].new_zeros(rows, *entering[0].shape[1:])
        begun = 0
        for layer in range(model.n_layers + 1):
            while begun < rows and (place := self._places[begun // draws]).start == layer:
                hidden[begun : begun + draws] = entering[layer]
                if place.site == "block":
                    hidden[begun : begun + draws, 0] = self._clean[blocks[place.layer]][position]
                begun += draws
            # Rows that have not begun fill the last batch up: a product of a new shape takes time to be set up.
            filled = min(rows, -(-begun // _FILLED) * _FILLED)
            for low in range(0, filled if layer < model.n_layers else 0, self._batch):
                here = slice(low, min(low + self._batch, filled))
                with add_to_outputs(model.model, self._mending(layer, position, range(here.start, here.stop))):
                    hidden[here] = upper.run_block(layer, hidden[here], lines[here])
        means = self._said(hidden[:, -1]).reshape(-1, draws).mean(1).tolist()
        self._rows += [(place, position, restored) for place, restored in zip(self._places, means, strict=True)]

    def _corrupt(self, _received: Tensor, output: Tensor) -> Tensor:
        noisy = output.clone()
        noisy[:, self._span] += self._shift
        return noisy

    def _mending(self, layer: int, position: int, rows: range) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """Return what restores the clean outputs of modules inside a block, where a row's place asks for it."""
        places = [self._places[row // len(self._shift)] for row in rows]
        found = {}
        for site in ("mlp", "attention"):
            chosen = [row for row, place in enumerate(places) if place.site == site and layer in place.layers]
            if chosen:
                path = _path(self._model, site, layer)
                found[path] = _put(torch.tensor(chosen, device=self._model.device), self._clean[path][position])
        return found

    def _said(self, states: Float[Tensor, "row d"]) -> Float[Tensor, " row"]:
        """Return the answer's probability behind states of the last block."""
        wanted = torch.full((len(states),), self._answer, device=states.device)
        return log_probabilities(self._model, states, wanted).exp()


def _put(rows: Int[Tensor, " row"], state: Float[Tensor, " d"]) -> Callable[[Tensor, Tensor], Tensor]:
    def change(_received: Tensor, output: Tensor) -> Tensor:
        mended = output.clone()
        mended[rows, 0] = state.to(output.dtype)
        return mended

    return change


def _placed(model: EditableModel, fact: Fact) -> tuple[list[int], list[int]]:
    before, _, after = fact.prompt.partition("{}")
    return model.subject_span(before, fact.subject, after)


def _tokens(ids: Sequence[int], span: Sequence[int]) -> int:
    """Return how many tokens stand at and behind the positions that are restored, all together."""
    return sum(len(ids) - position for position in range(span[0], len(ids)))


def _places(n_layers: int, window: int) -> Iterator[_Place]:
    for layer in range(n_layers):
        yield _Place("block", layer, range(layer, layer + 1), layer + 1)
        low, high = max(0, layer - window // 2), min(n_layers, layer + (window + 1) // 2)
        for site in ("mlp", "attention"):
            yield _Place(site, layer, range(low, high), low)


def _path(model: EditableModel, site: str, layer: int) -> str:
    part = {"block": "", "mlp": f".{model.family.mlp}", "attention": f".{model.family.attention}"}[site]
    return model.block_path(layer) + part


def _class_of(position: int, span: list[int], length: int) -> str:
    if position == span[-1]:
        return "last subject"
    if position < span[-1]:
        return "first subject" if position == span[0] else "middle subject"
    if position == length - 1:
        return "last"
    return "first later" if position == span[-1] + 1 else "later"
