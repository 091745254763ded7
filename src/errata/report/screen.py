"""What a screening leaves behind: ranked tables, the worst facts, a summary, and one self-contained page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from errata.analysis.prediction import Correlation, Figure, Prediction, correlations, predict
from errata.analysis.screening import RULE, SIZE_RULE, Screening
from errata.errors import AnalysisError
from errata.files import write_aside
from errata.report.extras import altair
from errata.report.page import render
from errata.report.screen_charts import VERDICTS, distances, plane, roc_chart, svg, told
from errata.report.words import DASH, safe_json

__all__ = ["Screened", "sentences", "write_screening"]

PREDICTED = ("disabling", "damaging", "outsized")
COLUMNS = ("rank", "id", "subject", "target_new", "verdict", "damage", "outsized", "relative", "distance")
FIGURES = ("unrelated", "perplexity", "entropy", "efficacy")


@dataclass(frozen=True)
class Screened:
    """A screening with its predictions, or why there is none.

    Args:
        screening: the screening.
        predictions: by verdict.
        refused: why a verdict is not predicted.
        correlations: of each figure known beforehand with the size of the update.
    """

    screening: Screening
    predictions: Mapping[str, Prediction]
    refused: Mapping[str, str]
    correlations: Mapping[str, Correlation]

    @classmethod
    def of(cls, screening: Screening, seed: int = 0) -> "Screened":
        """Predict what can be predicted (seed: of the folds and the bootstraps)."""
        made: dict[str, Prediction] = {}
        refused: dict[str, str] = {}
        for verdict in PREDICTED:
            try:
                made[verdict] = predict(screening, verdict, np.random.default_rng(seed))
            except AnalysisError as e:
                refused[verdict] = str(e)
        return cls(screening, made, refused, correlations(screening, np.random.default_rng(seed)))

    def as_json(self) -> dict[str, Any]:
        """Return everything but the single facts' figures beyond the ranking; what is not finite is null."""
        s = self.screening
        shares = {name: s.share(name) for name in PREDICTED}
        content = {
            "method": s.method,
            "model": s.info["config"]["model"]["name"],
            "facts": len(s.facts),
            "screened": len(s.frame),
            "failed": len(s.frame) - len(s.judged),
            "rule": RULE,
            "size_rule": SIZE_RULE,
            **{k: {"count": v.count, "of": v.of, "interval": list(v.interval)} for k, v in shares.items()},
            "distance": _distances(s),
            "before": dict(s.before),
            "ranked": s.frame.select(*COLUMNS, *FIGURES).to_dicts(),
            "prediction": {
                **{v: {"refused": reason} for v, reason in self.refused.items()},
                **{
                    v: {
                        "positives": p.positives,
                        "facts": p.facts,
                        "held_out": _figure(p.whole),
                        "figures": [_figure(f) for f in p.figures],
                    }
                    for v, p in self.predictions.items()
                },
            },
            "correlation_with_size": {
                name: {"value": c.rho, "interval": [c.low, c.high]} for name, c in self.correlations.items()
            },
        }
        strict: dict[str, Any] = json.loads(safe_json(content))
        return strict


def write_screening(screened: Screened, out: Path, worst: int = 20) -> dict[str, Path]:
    """Write `ranked.csv`, `ranked.parquet`, `summary.json`, `worst.jsonl`, `distances.svg` and `screen.html`.

    Args:
        screened: the screening.
        out: the directory.
        worst: how many facts the file of the most disturbing holds; every disabling one in any case.

    Returns:
        The files by name.
    """
    altair()  # asked for before any work is done
    s = screened.screening
    parquet = BytesIO()
    s.frame.write_parquet(parquet)
    kept = max(worst, s.share("disabling").count)
    facts = [json.dumps(s.facts[n - 1], ensure_ascii=False) + "\n" for n in s.judged["number"][:kept]]
    contents = {
        "ranked.csv": s.frame.write_csv().encode(),
        "ranked.parquet": parquet.getvalue(),
        "summary.json": (json.dumps(screened.as_json(), indent=1, ensure_ascii=False) + "\n").encode(),
        "worst.jsonl": "".join(facts).encode(),
        "distances.svg": svg(distances({s.method: s}, alone=True)).encode(),
        "screen.html": _page(screened).encode(),
    }
    for name, content in contents.items():
        write_aside(out / name, content)
    return {name: out / name for name in contents}


def sentences(screened: Screened) -> list[str]:
    """Say in words what was found, by which rules, and what was known beforehand."""
    s = screened.screening
    spread = _distances(s)
    found = [
        f"Disabling: {s.share('disabling')}. {RULE}",
        f"Damaging or disabling: {s.share('damaging')}. Outsized: {s.share('outsized')}. {SIZE_RULE}",
        f"Distance ‖W−W₀‖/numel: median {spread['median']:.2e}, largest {spread['max']:.2e}, "
        f"{spread['ratio']:.1f} times the median.",
    ]
    if failed := len(s.frame) - len(s.judged):
        found.append(f"{failed} facts could not be edited and are in no share.")
    if not s.measured:
        found.append(
            "Neither unrelated facts nor perplexity were measured, so the size of the update decides alone. Name what"
            " to measure them on: --unrelated facts.jsonl, --text text.txt."
        )
    return found


def _distances(s: Screening) -> dict[str, float]:
    known = s.judged["distance"].drop_nulls().to_numpy()
    finite = known[np.isfinite(known)]
    if not len(finite):
        return dict.fromkeys(("median", "max", "ratio"), math.nan)
    middle, most = float(np.median(finite)), float(finite.max())
    return {"median": middle, "max": most, "ratio": most / middle if middle else math.nan}


def _figure(f: Figure) -> dict[str, Any]:
    return {"name": f.name, "auc": f.auc, "interval": [f.low, f.high]}


def _page(screened: Screened) -> str:
    s = screened.screening
    drawn, charts = _charts(screened)
    return render(
        "screen.html.j2",
        screening=s,
        headline=f"{s.share('disabling').count} of {s.share('disabling').of} edits disable the model.",
        sentences=sentences(screened),
        verdicts=VERDICTS,
        charts=charts,
        specs=drawn,
        prediction=" ".join([*(_worth(p) for p in screened.predictions.values()), *screened.refused.values()]),
        predicted=list(screened.predictions),
        known=_known(screened),
    )


def _charts(screened: Screened) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """Return the specifications, and each chart's name, title and note."""
    s = screened.screening
    drawn = {"distances": distances({s.method: s})}
    notes = [("distances", "How far each edit moves the weights", "‖W−W₀‖_F / numel, the first paper's distance.")]
    if not any(math.isnan(s.before[name]) for name in ("unrelated", "perplexity")):
        drawn["plane"] = plane(s)
        notes.append(("plane", "What each edit leaves", "Unrelated facts still right, against perplexity."))
    if screened.correlations:
        best = max(screened.correlations, key=lambda name: _strength(screened.correlations[name]))
        drawn["told"] = told(s, best)
        notes.append(("told", f"‖ΔW‖/‖W₀‖ by {best}", "The figure known beforehand that goes best with the size."))
    for verdict, prediction in list(screened.predictions.items())[:1]:
        drawn["roc"] = roc_chart(prediction)
        notes.append(
            ("roc", f"Telling {verdict} edits beforehand", "Right calls against false alarms, held-out facts.")
        )
    return drawn, notes


def _worth(p: Prediction) -> str:
    return (
        f"Whether an edit is {p.verdict} ({p.positives} of {p.facts}): a logistic regression on all figures reaches an "
        f"AUC of {_auc(p.whole)} on facts whose subjects it has not seen."
    )


def _auc(f: Figure) -> str:
    return f"{f.auc:.2f} ({f.low:.2f}–{f.high:.2f})"


def _known(screened: Screened) -> Sequence[Sequence[str]]:
    """Return a row a figure: its correlation with the size, and its AUC for each verdict that is predicted."""
    by_verdict = [{f.name: _auc(f) for f in p.figures} for p in screened.predictions.values()]
    ordered = sorted(screened.correlations.items(), key=lambda item: -_strength(item[1]))
    return [[name, str(value), *(aucs.get(name, DASH) for aucs in by_verdict)] for name, value in ordered]


def _strength(c: Correlation) -> float:
    return float(abs(np.nan_to_num(c.rho)))
