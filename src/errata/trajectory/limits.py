"""What edits may cost a model, and what is to be done with one that costs more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Limits", "Signals"]

Signals = Mapping[str, float]
"""What is known of a proposed update before it lands: `relative` ‖ΔW‖/‖W₀‖ and, where the method has it, `condition`;
from a canary, on trial: `kl`, `kept`, `perplexity`, and of the batch `target`, the share of its objects that are said,
and `learnt`, the mean of their probabilities (each the geometric mean over the object's tokens)."""


@dataclass(frozen=True)
class Limits:
    """Bound the damage of one edit and of all edits together, on a canary: prompts that no edit should change.

    The damage is KL(p₀‖p) of the predictions after the canary's lines, p₀ being the unedited model's, in nats. It is
    cumulated: what an edit costs is how far it raises the figure. One edit may take `pace` equal shares of what is left
    of the budget, so that a stream neither breaks the model at once nor wears it down before its end.

    Args:
        budget: the most that the mean KL of the canary may reach.
        kept: the least share of the canary's lines after which the unedited model's answer stays.
        perplexity: the most that the canary's perplexity may be, as a multiple of the unedited model's.
        pace: how many equal shares of the rest of the budget one edit may take.
        horizon: for how many more edits the budget is to last where their number is not known.
        learnt: the least mean probability of a batch's objects afterwards; what teaches less is worth no cost.
        condition: the largest condition number of a solve that is trusted in float64.
        damp: by what an update is multiplied, in turn, when it costs too much; it must still teach its facts then.
    """

    budget: float
    kept: float
    perplexity: float
    pace: float
    horizon: int
    learnt: float
    condition: float
    damp: tuple[float, ...]

    def objection(self, signals: Signals, before: Signals, left: int | None, size: int = 1) -> str:
        """Return in words what speaks against an update; empty when nothing does.

        A signal that is past its bound already speaks only against an update that makes it worse.

        Args:
            signals: of the update, on trial.
            before: the canary's signals before it.
            left: how many edits are still to come, this batch among them; None where that is not known.
            size: how many edits the batch holds; it may take as many times what one may, and no more than is left.
        """
        if not all(math.isfinite(signals[name]) for name in ("kl", "perplexity")):
            return "the model would give NaN on the canary"
        kl, cost = signals["kl"], signals["kl"] - before["kl"]
        share = size * max(self.budget - before["kl"], 0.0) / max(self.horizon if left is None else left, size)
        found = []
        if kl > self.budget and cost > 0:
            found.append(f"the canary's KL would be {kl:.3g}, over the budget of {self.budget:g}")
        elif cost > self.pace * share:
            whose = "an edit's" if size == 1 else f"{size} edits'"
            found.append(f"it would raise the canary's KL by {cost:.2g}, {cost / share:.0f} times {whose} share")
        if signals["kept"] < min(self.kept, before["kept"]):
            found.append(f"only {signals['kept']:.0%} of the canary's answers would stay")
        if signals["perplexity"] > max(self.perplexity, before["perplexity"]):
            found.append(f"the canary's perplexity would be {signals['perplexity']:.2f} times what it was")
        if not signals["learnt"] >= self.learnt:
            found.append(f"it would teach nothing: the object's probability would be {signals['learnt']:.1g} a token")
        return "; ".join(found)
