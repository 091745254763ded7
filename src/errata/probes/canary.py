"""The canary: lines that no edit should change, read on every trial of an update."""

import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edits import Fact
from errata.edits.fields import names
from errata.errors import ConfigError
from errata.files import read_text
from errata.lab.models import LAB_MODELS, load_world
from errata.models import EditableModel
from errata.models.head import logits_in_parts, states_at
from errata.probes.scoring import score, token_budget

__all__ = ["LineCanary", "canary_lines"]

_PROSE = 0.25  # of a lab canary's lines: held-out text beside facts


class LineCanary:
    """Compare what a model predicts after and within lines with what it predicted before any edit.

    KL(p₀‖p) is of the predictions after a line's last token, in nats, the mean over lines. `kept` is the share of lines
    after which the answer stays: the token that was the most probable is still half as probable as the one that now is,
    since of two that are nearly as probable either may come first by a hair. `perplexity` is that of the lines' own
    tokens, as a multiple of before.
    Lines are read as they are: what a method puts before a question is part of its answer and no damage to the model.

    Args:
        model: the unedited model.
        lines: the canary.
    """

    def __init__(self, model: EditableModel, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        """The canary."""
        with model.bare():
            self._rows = [ids[: model.positions] for ids in model.encode(lines)]
        ends, self._nll = self._read(model)
        self._base = ends
        self._best = ends.argmax(-1)

    def measure(self, model: EditableModel, batch: Sequence[Fact]) -> dict[str, float]:
        """Compare with the unedited model.

        Returns:
            `kl`, `kept`, `perplexity`, and, for a batch, `target`: the share of its objects that the model now says,
            each token the most probable one, and `learnt`: the mean of their probabilities, each the geometric mean
            over its tokens; NaN from a dead model.
        """
        ends, nll = self._read(model)
        found = {
            "kl": float(self._shifts(ends).mean()),
            "kept": self._kept(ends),
            "perplexity": math.exp(min(nll - self._nll, 700.0)) if math.isfinite(nll) else nll,
        }
        if batch:
            scores = score(model, [(fact.text, fact.target_new) for fact in batch], [fact.join for fact in batch])
            found["target"] = fmean(s.exact for s in scores)
            found["learnt"] = fmean(math.exp(s.logp) for s in scores)
        return found

    def shifts(self, model: EditableModel) -> list[float]:
        """Return KL(p₀‖p) after each line, in nats."""
        found: list[float] = self._shifts(self._read(model)[0]).tolist()
        return found

    def _kept(self, ends: Float[Tensor, "line vocab"]) -> float:
        answer = ends.gather(1, self._best[:, None])[:, 0]
        return float((answer >= ends.amax(1) - math.log(2)).double().mean())

    def _shifts(self, ends: Float[Tensor, "line vocab"]) -> Float[Tensor, " line"]:
        # Rounding leaves a hair below zero where nothing has moved.
        return (self._base.exp() * (self._base - ends)).sum(-1).clamp(min=0)

    @torch.no_grad()
    def _read(self, model: EditableModel) -> tuple[Float[Tensor, "line vocab"], float]:
        """Return log-probabilities after each line, and the mean negative log-likelihood within lines, in nats."""
        ends: dict[int, Tensor] = {}
        within: list[Tensor] = []
        for group in _alike(self._rows, token_budget(model)):
            rows = [self._rows[line] for line in group]
            places = [(row, place) for row, ids in enumerate(rows) for place in range(len(ids))]
            with model.reading([len(ids) - 1 for ids in rows]):
                states = states_at(model, rows, places)
            for part, logits in logits_in_parts(model, states):
                logp = torch.log_softmax(logits.double(), -1)
                here = [(n, *places[part[n]]) for n in range(len(part))]
                ends |= {group[row]: logp[n] for n, row, place in here if place == len(rows[row]) - 1}
                said = [(n, rows[row][place + 1]) for n, row, place in here if place < len(rows[row]) - 1]
                own, tokens = torch.tensor(said, device=logp.device).reshape(-1, 2).T
                within.append(logp[own, tokens])
        return torch.stack([ends[line] for line in range(len(self._rows))]), -float(torch.cat(within).mean())


def _alike(rows: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Return the rows' numbers in groups of similar length, so that little of a pass is padding."""
    groups: list[list[int]] = []
    for line in sorted(range(len(rows)), key=lambda line: len(rows[line])):
        n = len(rows[line])
        if not groups or n > 1.5 * len(rows[groups[-1][0]]) or n * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(line)
    return groups


def canary_lines(
    model: EditableModel,
    source: str,
    n: int,
    facts: Sequence[Fact],
    seed: int = 0,
    tell: Callable[[str], None] = lambda message: None,
) -> list[str]:
    """Return a canary's lines, none of which names a subject that is edited, as far as there are others.

    Args:
        model: the model to be edited.
        source: "auto": of a lab model, facts of its world that are not edited, up to their object, and held-out text;
            of others, general lines that come with Errata. Else a text file, a line each.
        n: how many at most.
        facts: that will be edited.
        seed: of the sample.
        tell: receives one remark where fewer lines are left than were asked for.

    Raises:
        ConfigError: when there is no line left.
    """
    subjects = {fact.subject.lower() for fact in facts}
    rng = Random(seed)
    if source == "auto" and model.name in LAB_MODELS:
        world = load_world(model.name)
        edited = {(fact.subject.lower(), fact.relation) for fact in facts}
        known = [f for f in world.facts() if (f.subject.lower(), f.relation) not in edited]
        others = [f for f in known if f.subject.lower() not in subjects]
        prose = world.heldout_text(round(_PROSE * n))
        known = others if len(others) >= n - len(prose) else known
        chosen = rng.sample(known, min(n - len(prose), len(known)))
        return [rng.choice(f.prompts).replace("{}", f.subject) for f in chosen] + prose
    if source == "auto":
        text = (files("errata.probes") / "canary.txt").read_text(encoding="utf-8")
    else:
        text = read_text(Path(source), ConfigError, "guard.source")
    every = [line for line in dict.fromkeys(text.split("\n")) if line.strip()]
    lines = [line for line in every if not names(line, subjects)]
    with model.bare():
        lines = [line for line, ids in zip(lines, model.encode(lines), strict=True) if 1 < len(ids) <= model.positions]
    if not lines:
        raise ConfigError(f"guard.source: {source} has no line of two tokens that names no edited subject.")
    if len(lines) < n:
        tell(
            f"the guard's canary has {len(lines)} lines where guard.lines asks for {n}: {len(every) - len(lines)} of "
            f"{len(every)} name what is edited, or do not fit the model."
        )
    return rng.sample(lines, min(n, len(lines)))
