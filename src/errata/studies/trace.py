"""Causal tracing: which hidden states, restored into a corrupted run, bring the fact back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import polars as pl
import torch
from torch import Tensor

from errata.edits import Fact
from errata.errors import AnalysisError, ConfigError
from errata.models import EditableModel
from errata.models.hooks import add_to_outputs, capture

__all__ = ["CLASSES", "SITES", "Trace", "known_facts", "trace"]

SITES = ("block", "mlp", "attention")
CLASSES = ("first subject", "middle subject", "last subject", "first later", "later", "last")
"""Classes of positions, as in ROME's Figure 2. A subject's only token is "last subject", at a prompt's end as well."""


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
    """One restoration: `position` at `site`, in a window of layers around `layer`."""

    site: str
    layer: int
    position: int
    layers: tuple[int, ...]


@torch.no_grad()
def known_facts(model: EditableModel, facts: Sequence[Fact], n: int) -> list[Fact]:
    """Return the first n facts whose true object begins with the model's most probable next token.

    Raises:
        AnalysisError: when there is none: what a model does not know cannot be traced in it.
    """
    found: list[Fact] = []
    for fact in (f for f in facts if f.target_true):
        if len(found) == n:
            break
        logits = model.model(torch.tensor(model.encode([fact.text]), device=model.device), use_cache=False).logits
        if int(logits[0, -1].argmax()) == model.encode_target(fact.target_true, fact.text, fact.join)[0]:
            found.append(fact)
    if not found:
        raise AnalysisError(
            f"{model.name} predicts the true object of none of these {len(facts)} facts, so there is nothing to trace. "
            f"Give facts that it knows; --all traces those it does not know as well."
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
    batch: int = 128,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trace:
    """Measure the indirect effect of every layer and position on P(o) (2202.05262 §2.1).

    Three runs: clean; corrupted, with ε ~ N(0, (noise · σ)²) added to the embeddings of the subject's tokens, σ the
    standard deviation of all these embeddings; and corrupted with the clean state restored at one place. o is the first
    token of `target_true`, or the model's own prediction where a fact has none.

    Args:
        model: the model; it is only read.
        facts: what to trace; facts that the model does not know only blur the picture.
        generator: a seeded generator on the CPU.
        noise: in standard deviations.
        samples: draws of the noise for each fact, the same for each of its places.
        window: how many layers are restored together at "mlp" and "attention", centred; "block" restores one.
        batch: forward passes made together.
        progress: called with (done, total) facts.
    """
    if not facts:
        raise AnalysisError("there is no fact to trace; give at least one.")
    if min(samples, window, batch) < 1 or noise < 0:
        raise ConfigError(
            f"samples, window and batch must be at least 1 and noise at least 0; "
            f"found {samples=}, {window=}, {batch=}, {noise=}."
        )
    parts = [fact.prompt.split("{}") for fact in facts]
    placed = [model.subject_span(p[0], f.subject, p[1]) for p, f in zip(parts, facts, strict=True)]
    subject_ids = torch.tensor([ids[i] for ids, span in placed for i in span], device=model.device)
    embeddings = model.module(model.family.embeddings)(subject_ids).float()
    deviation = noise * float(embeddings.std())
    rows = []
    for done, (fact, (ids, span)) in enumerate(zip(facts, placed, strict=True), 1):
        shift = deviation * torch.randn(samples, len(span), model.hidden_size, generator=generator)
        rows += _trace_one(model, fact, ids, span, shift.to(model.device, model.dtype), window, batch)
        progress(done, len(facts))
    return Trace(pl.DataFrame(rows), deviation)


def _trace_one(
    model: EditableModel, fact: Fact, ids: list[int], span: list[int], shift: Tensor, window: int, batch: int
) -> list[dict[str, object]]:
    given = torch.tensor([ids], device=model.device)
    with capture(model.model, [_path(model, s, i) for s in SITES for i in range(model.n_layers)], stop=False) as seen:
        clean = model.model(given, use_cache=False).logits[0, -1].double().softmax(-1)
    states = {path: activation.output[0] for path, activation in seen.items()}
    answer = int(clean.argmax())
    if fact.target_true:
        answer = model.encode_target(fact.target_true, fact.text, fact.join)[0]

    places = list(_places(model.n_layers, range(span[0], len(ids)), window))
    samples = len(shift)
    # Row i of the whole list is draw i % samples of place i // samples; the first place restores nothing.
    runs = [(place, draw) for place in (None, *places) for draw in range(samples)]
    found = []
    for i in range(0, len(runs), batch):
        chunk = runs[i : i + batch]
        found.append(_restored(model, given, span, shift[[draw for _, draw in chunk]], [p for p, _ in chunk], states))
    probabilities = torch.cat(found)[:, answer].reshape(-1, samples).mean(1).tolist()
    corrupted = probabilities[0]
    return [
        {
            "fact": fact.id,
            "site": place.site,
            "layer": place.layer,
            "position": place.position,
            "where": _class_of(place.position, span, len(ids)),
            "clean": float(clean[answer]),
            "corrupted": corrupted,
            "restored": restored,
            "effect": restored - corrupted,
        }
        for place, restored in zip(places, probabilities[1:], strict=True)
    ]


def _restored(
    model: EditableModel,
    given: Tensor,
    span: list[int],
    shift: Tensor,
    places: Sequence[_Place | None],
    states: dict[str, Tensor],
) -> Tensor:
    """Return the next-token probabilities of corrupted runs, each with one place restored, or none."""

    def corrupt(_received: Tensor, output: Tensor) -> Tensor:
        noisy = output.clone()
        noisy[:, span] += shift
        return noisy

    def restore(path: str, at: list[tuple[int, int]]) -> Callable[[Tensor, Tensor], Tensor]:
        rows, positions = [row for row, _ in at], [position for _, position in at]

        def change(_received: Tensor, output: Tensor) -> Tensor:
            mended = output.clone()
            mended[rows, positions] = states[path][positions]
            return mended

        return change

    wanted = sorted(
        (_path(model, place.site, layer), row, place.position)
        for row, place in enumerate(places)
        if place is not None
        for layer in place.layers
    )
    additions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {model.family.embeddings: corrupt}
    for path, group in groupby(wanted, key=lambda w: w[0]):
        additions[path] = restore(path, [(row, position) for _, row, position in group])
    with add_to_outputs(model.model, additions):
        logits: Tensor = model.model(given.expand(len(places), -1), use_cache=False, logits_to_keep=1).logits
    return logits[:, -1].double().softmax(-1)


def _places(n_layers: int, positions: Sequence[int], window: int) -> Iterator[_Place]:
    for site in SITES:
        for layer in range(n_layers):
            low, high = (layer, layer + 1) if site == "block" else (layer - window // 2, layer + (window + 1) // 2)
            layers = tuple(range(max(0, low), min(n_layers, high)))
            for position in positions:
                yield _Place(site, layer, position, layers)


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
