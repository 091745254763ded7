"""What edits may cost a model, and what is to be done with one that costs more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Limits", "Signals"]

Signals = Mapping[str, float]
"""What is known of a proposed update before it lands: `relative` ‖ΔW‖/‖W₀‖ and, where the method has it, `condition`;
from a canary, on trial: `kl`, `kept`, `perplexity`, and `target`, the share of the batch's objects that are learnt."""


@dataclass(frozen=True)
class Limits:
    """Bound the damage of one edit and of all edits together, on a canary: prompts that no edit should change.

    The damage is KL(p₀‖p) of the predictions after the canary's lines, p₀ being the unedited model's, in nats. It is
    cumulated: what an edit costs is how far it raises the figure. One edit may take `pace` equal shares of what is left
    of the budget, so that a stream neither breaks the model at once nor wears it down before its end.

    Args:
        budget: the most that the mean KL of the canary may reach.
        kept: the least share of the canary's lines whose most probable next token is still the unedited model's.
        perplexity: the most that the canary's perplexity may be, as a multiple of the unedited model's.
        pace: how many equal shares of the rest of the budget one edit may take.
        horizon: for how many more edits the budget is to last where their number is not known.
        condition: the largest condition number of a solve that is trusted in float64.
        damp: by what an update is multiplied, in turn, when it costs too much; it must still teach its facts then.
    """

    budget: float = 0.05
    kept: float = 0.95
    perplexity: float = 1.1
    pace: float = 4.0
    horizon: int = 100
    condition: float = 1e14
    damp: tuple[float, ...] = (0.7, 0.5)

    def objection(self, signals: Signals, level: float, left: int | None) -> str:
        """Return in words what speaks against an update; empty when nothing does.

        Args:
            signals: of the update, on trial.
            level: the canary's KL before it.
            left: how many edits are still to come, this batch among them; None where that is not known.
        """
        if not all(math.isfinite(signals[name]) for name in ("kl", "perplexity")):
            return "the model would give NaN on the canary"
        kl, cost = signals["kl"], signals["kl"] - level
        share = max(self.budget - level, 0.0) / max(self.horizon if left is None else left, 1)
        found = []
        if kl > self.budget and cost > 0:
            found.append(f"the canary's KL would be {kl:.3g}, over the budget of {self.budget:g}")
        elif cost > self.pace * share:
            found.append(f"it would raise the canary's KL by {cost:.2g}, {cost / share:.0f} times an edit's share")
        if signals["kept"] < self.kept and cost > 0:
            found.append(f"only {signals['kept']:.0%} of the canary's answers would stay")
        if signals["perplexity"] > self.perplexity and cost > 0:
            found.append(f"the canary's perplexity would be {signals['perplexity']:.2f} times what it was")
        return "; ".join(found)
