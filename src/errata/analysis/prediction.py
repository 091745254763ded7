"""Tell beforehand which edits will do harm: single figures and a logistic regression, on facts held out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata

from errata.analysis.screening import KNOWN, Screening
from errata.errors import AnalysisError

__all__ = [
    "Correlation",
    "Figure",
    "Prediction",
    "auc",
    "correlations",
    "features",
    "held_out",
    "logistic",
    "predict",
    "roc",
    "told_by",
]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

FEWEST = 10
"""Fewer subjects than this of either kind are too few to learn from, and fewer of all too few to resample."""
SIZE = frozenset({"divisor", "key_product", "residual_norm"})
"""What an update's size is made of: of ROME, ‖ΔW‖_F = residual_norm / |divisor| exactly."""
FOLDS = 5
RIDGE = 1.0
"""Weight of half the squared coefficients against the summed log-loss; the features are standardised."""


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its 95 % interval."""

    rho: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rho:.2f} ({self.low:.2f} to {self.high:.2f})"


def auc(scores: Array, positive: Flags) -> float:
    """Return the chance that a positive scores higher than a negative, a tie counting half (Mann & Whitney 1947).

    AUC = (R₊ − n₊(n₊+1)/2) / (n₊n₋), R₊ the positives' sum of ranks; NaN without positives or without negatives.
    """
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def roc(scores: Array, positive: Flags) -> tuple[Array, Array]:
    """Return false and true positive rates for every threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # facts of one score stand or fall together
    hits, misses = np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]
    return np.append(0.0, misses / max(1, misses[-1])), np.append(0.0, hits / max(1, hits[-1]))


def features(screening: Screening, *, size: bool = True) -> dict[str, Array]:
    """Return what was known before each edit was applied; lengths as logarithms, products by their size alone.

    A figure that is not there for every fact, or is the same for all, tells nothing and is left out.

    Args:
        screening: the screening.
        size: whether those are among them from which the size of the update follows.
    """
    found: dict[str, Array] = {}
    for column in screening.known():
        values = screening.judged[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        name = column.removeprefix(KNOWN)
        if name in SIZE and not size:
            continue
        if name.endswith(("_norm", "_product", "divisor", "_overlap")):
            with np.errstate(divide="ignore"):
                values, name = np.log(np.abs(values)), f"log |{name}|"
        if (finite := np.isfinite(values)).any():
            values = np.clip(values, values[finite].min(), values[finite].max())  # a divisor of 0, a norm of infinity
        if np.isfinite(values).all() and np.ptp(values) > 1e-9 * np.abs(values).max():
            found[name] = values
    return found


def correlations(screening: Screening, rng: np.random.Generator, samples: int = 500) -> dict[str, Correlation]:
    """Return Spearman's correlation of each figure with the size of the update, ‖ΔW‖/‖W₀‖; it needs no positives.

    Args:
        screening: the screening.
        rng: resamples the subjects; with fewer than ten of them the intervals are NaN.
        samples: how many resamples.
    """
    sizes = screening.judged["relative"].to_numpy()
    found: dict[str, Correlation] = {}
    if not len(sizes) or (sizes == sizes[0]).all():
        return found
    subjects = _subjects(screening)
    draws = _draws(subjects, rng, samples) if len(np.unique(subjects)) >= FEWEST else []
    for name, values in features(screening).items():
        low, high = _middle([_spearman(values[d], sizes[d]) for d in draws])
        found[name] = Correlation(_spearman(values, sizes), low, high)
    return found


def logistic(X: Array, y: Flags) -> Callable[[Array], Array]:
    """Fit log-odds w·x + b by penalised maximum likelihood, and return them as a function.

    Minimises Σ log(1 + exp(−s(w·x + b))) + RIDGE ‖w‖²/2, s = ±1, over features standardised by X's own mean and
    deviation.

    Args:
        X: a row a fact.
        y: which are positive.
    """
    mean, deviation = X.mean(0), X.std(0)
    deviation[deviation == 0] = 1.0
    Z, s = (X - mean) / deviation, np.where(y, 1.0, -1.0)

    def loss(w: Array) -> tuple[float, Array]:
        margin = s * (Z @ w[1:] + w[0])
        pull = -s / (1 + np.exp(np.clip(margin, -500, 500)))
        value = np.logaddexp(0, -margin).sum() + RIDGE * (w[1:] @ w[1:]) / 2
        return float(value), np.append(pull.sum(), Z.T @ pull + RIDGE * w[1:])

    w = minimize(loss, np.zeros(X.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return lambda new: np.asarray((new - mean) / deviation @ w[1:] + w[0])


@dataclass(frozen=True)
class Figure:
    """How well one figure tells the positives: its AUC (below ½ where low values tell them) with its 95 % interval."""

    name: str
    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """What a prediction is worth.

    Args:
        verdict: what is predicted.
        positives: how many facts have it.
        facts: of how many.
        whole: the regression on all figures, by its scores of held-out facts.
        figures: each figure by itself, best first; nothing is fitted, so every fact counts.
        curve: false and true positive rate of the regression at every threshold.
    """

    verdict: str
    positives: int
    facts: int
    whole: Figure
    figures: tuple[Figure, ...]
    curve: tuple[Array, Array]


def predict(screening: Screening, verdict: str, rng: np.random.Generator, samples: int = 500) -> Prediction:
    """Predict which facts get a verdict, from what was known before their edits were applied.

    Every fact is scored by a regression that has not seen its subject: the subjects are dealt into five folds, those
    with a positive first, and each fold is scored by what the others taught. Intervals are the bootstrap's over
    subjects. Where the verdict is a threshold on the size of the update, the figures of which that size is made are
    left out.

    Args:
        screening: the screening.
        verdict: disabling, damaging or outsized.
        rng: deals the folds and resamples.
        samples: how many resamples.

    Raises:
        AnalysisError: when fewer than ten subjects have a fact with the verdict, or one without; says how many.
    """
    judged = screening.judged
    positive = _flags(judged, verdict)
    n, of = int(positive.sum()), len(positive)
    known = features(screening, size=verdict != "outsized" and screening.measured)
    if not known:
        raise AnalysisError("nothing is known of the facts before they are edited: too little to predict by.")
    subjects = _subjects(screening)
    having, lacking = (len(np.unique(subjects[kind])) for kind in (positive, ~positive))
    if min(having, lacking) < FEWEST:
        raise AnalysisError(
            f"{n} of {of} facts are {verdict}: too little to predict by, with {having} subjects that have such a fact "
            f"and {lacking} that have another; at least {FEWEST} of either kind are needed, to learn from and to test "
            f"on. Screen more facts."
        )
    X = np.column_stack(list(known.values()))
    scores = held_out(X, positive, subjects, rng)
    draws = _draws(subjects, rng, samples)
    figures = [_figure(name, values, positive, draws) for name, values in known.items()]
    figures.sort(key=lambda f: -abs(f.auc - 0.5))
    whole = _figure("all together", scores, positive, draws)
    return Prediction(verdict, n, of, whole, tuple(figures), roc(scores, positive))


def told_by(
    screening: Screening, verdict: str, name: str, values: Array, rng: np.random.Generator, samples: int = 500
) -> Figure:
    """Return how well one figure of the facts, high where the verdict is to be expected, tells them by itself.

    Args:
        screening: the screening.
        verdict: disabling, damaging or outsized.
        name: the figure's.
        values: one a judged fact, in their order.
        rng: resamples the subjects.
        samples: how many resamples.
    """
    draws = _draws(_subjects(screening), rng, samples)
    return _figure(name, values, _flags(screening.judged, verdict), draws)


def held_out(X: Array, positive: Flags, subjects: NDArray[np.object_], rng: np.random.Generator) -> Array:
    """Return each fact's place in its fold, from 0 to 1, by a regression fitted to other subjects' facts.

    Five regressions have five scales; only the order within a fold is of one.
    """
    names: Mapping[str, bool] = {s: bool(positive[subjects == s].any()) for s in np.unique(subjects)}
    order = sorted(rng.permutation(list(names)), key=lambda s: not names[s])
    fold = {s: i % FOLDS for i, s in enumerate(order)}
    folds = np.array([fold[s] for s in subjects])
    scores = np.empty(len(X))
    for i in range(FOLDS):
        own = folds == i
        scores[own] = (rankdata(logistic(X[~own], positive[~own])(X[own])) - 0.5) / own.sum()
    return scores


def _figure(name: str, scores: Array, positive: Flags, draws: list[NDArray[np.int_]]) -> Figure:
    low, high = _middle([auc(scores[d], positive[d]) for d in draws])
    return Figure(name, auc(scores, positive), low, high)


def _subjects(screening: Screening) -> NDArray[np.object_]:
    return screening.judged["subject"].str.to_lowercase().to_numpy()


def _draws(subjects: NDArray[np.object_], rng: np.random.Generator, samples: int) -> list[NDArray[np.int_]]:
    """Resample the subjects, each with all its facts."""
    groups = [np.flatnonzero(subjects == s) for s in np.unique(subjects)]
    return [np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))]) for _ in range(samples)]


def _middle(values: list[float]) -> tuple[float, float]:
    """Return the bounds of the middle 95 %; NaN where no resample has a value."""
    known = np.array([v for v in values if not np.isnan(v)])
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _spearman(a: Array, b: Array) -> float:
    """Return the correlation of ranks, ties sharing theirs; NaN where one side is the same for all, or has a NaN."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (a, b)]
    norm = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float(ranks[0] @ ranks[1] / norm) if norm else float("nan")


def _flags(judged: pl.DataFrame, verdict: str) -> Flags:
    if verdict == "outsized":
        return judged["outsized"].to_numpy()
    wanted = ["disabling"] if verdict == "disabling" else ["damaging", "disabling"]
    return judged["verdict"].is_in(wanted).to_numpy()
