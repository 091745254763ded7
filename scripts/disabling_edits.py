"""Lay screenings beside one another: the figures and the tables of docs/results/questions/disabling-edits.md.

    python scripts/disabling_edits.py ROME=screens/rome r-ROME=screens/r-rome --figures docs/images/questions
    python scripts/disabling_edits.py ROME=screens/rome --begins

Each was made by `errata screen`; the tables go to standard output. The figures are `disabling-distances.svg` of all,
and of the first `disabling-doses.svg`, and `disabling-roc.svg` where its disabling facts can be predicted.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from errata.analysis.prediction import Figure, features, roc, told_by
from errata.analysis.screening import KNOWN, Screening, Share, load_screening
from errata.files import write_aside
from errata.report.screen import Screened
from errata.report.screen_charts import Curve, distances, doses, rocs, svg

VERDICTS = ("disabling", "damaging", "outsized")
OVERLAPS = (0, 0.005, 0.01, 0.02, 0.05, 0.1, 10)
CURVES = {"log |key_overlap|": "key overlap", "subject_position": "position"}


def main() -> int:
    """Read the screenings, print the tables, draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screens", nargs="+", metavar="LABEL=DIR")
    parser.add_argument("--figures", type=Path, help="the directory of the figures, as SVG")
    parser.add_argument("--begins", action="store_true", help="only facts whose prompt begins with the subject")
    args = parser.parse_args()
    screened = {}
    for pair in args.screens:
        label, _, place = pair.partition("=")
        screening = load_screening(Path(place or label))
        if args.begins:
            begins = screening.frame.filter(pl.col("prompt").str.starts_with("{}"))
            screening = replace(screening, frame=begins)
        screened[label] = Screened.of(screening)
    if args.figures:
        draw(screened, args.figures)
    sys.stdout.write("\n".join((table(screened), correlations(screened), *map(told, screened, screened.values()))))
    return 0


def draw(screened: dict[str, Screened], place: Path) -> None:
    """Draw the distances of all screenings, and what the first one's updates did and how they were told."""
    first = next(iter(screened.values()))
    charts = {
        "distances": distances({k: s.screening for k, s in screened.items()}, alone=True),
        "doses": doses(first.screening, alone=True),
    }
    if "disabling" in first.predictions:
        charts["roc"] = rocs(dict(curves(first)), "disabling", alone=True)
    for name, chart in charts.items():
        write_aside(place / f"disabling-{name}.svg", svg(chart).encode())


def curves(screened: Screened) -> Iterator[tuple[str, Curve]]:
    """Yield the regression's curve over held-out facts, and that of some figures by themselves."""
    s, p = screened.screening, screened.predictions["disabling"]
    yield "held out", p.curve
    auc = {f.name: f.auc for f in p.figures}
    disabling = (s.judged["verdict"] == "disabling").to_numpy()
    for name, label in CURVES.items():
        if name in auc:
            sign = 1 if auc[name] >= 0.5 else -1
            yield label, roc(sign * features(s)[name], disabling)


def table(screened: dict[str, Screened]) -> str:
    """Return a row a screening: verdicts with their intervals, distances, the least overlap of keys."""
    heads = ["", "facts", *VERDICTS, "median distance", "largest", "ratio", "least key_overlap"]
    rows = [heads, ["---"] * len(heads)]
    for label, one in screened.items():
        s, spread = one.screening, one.as_json()["distance"]
        overlap = s.judged[f"{KNOWN}key_overlap"].abs().min() if f"{KNOWN}key_overlap" in s.judged.columns else None
        figures = [f"{spread['median']:.2e}", f"{spread['max']:.2e}", f"{spread['ratio']:.1f}"]
        rows.append([label, str(len(s.judged)), *(cell(s.share(v)) for v in VERDICTS), *figures])
        rows[-1].append("–" if overlap is None else f"{overlap:.2g}")
    return "\n".join((markdown(rows), by_verdict(screened), by_overlap(screened)))


def by_verdict(screened: dict[str, Screened]) -> str:
    """Return a row a screening and verdict: how far its edits move the weights, and what they leave."""
    rows = [["", "facts", "subjects", "median", "least", "most", "unrelated facts", "perplexity", "new object"]]
    rows.append(["---"] * len(rows[0]))
    for label, one in screened.items():
        for verdict in ("ordinary", "damaging", "disabling"):
            part = one.screening.judged.filter(pl.col("verdict") == verdict)
            if not part.height:
                continue
            middle = {c: part[c].median() for c in ("distance", "unrelated", "perplexity")}
            sizes = [f"{value:.2e}" for value in (middle["distance"], part["distance"].min(), part["distance"].max())]
            left = [f"{middle['unrelated']:.2f}", f"{middle['perplexity']:.2f}", f"{part['efficacy'].mean():.2f}"]
            rows.append([f"{label}, {verdict}", str(part.height), str(part["subject"].n_unique()), *sizes, *left])
    return markdown(rows)


def by_overlap(screened: dict[str, Screened]) -> str:
    """Return a row a screening whose keys can differ: of the facts of each overlap, how many disable and damage."""
    heads = [f"{low:g} to {high:g}" for low, high in pairwise(OVERLAPS)]
    rows = [["disabling / damaging / all, by overlap", *heads], ["---"] * (len(heads) + 1)]
    for label, one in screened.items():
        judged = one.screening.judged
        if f"{KNOWN}key_overlap" not in judged.columns:
            continue
        rows.append([label])
        for low, high in pairwise(OVERLAPS):
            part = judged.filter(pl.col(f"{KNOWN}key_overlap").abs().is_between(low, high, closed="left"))
            counts = [part.filter(pl.col("verdict") == verdict).height for verdict in ("disabling", "damaging")]
            people = part["subject"].n_unique()
            rows[-1].append(f"{counts[0]} / {counts[1]} / {part.height} ({people} subjects)" if part.height else "–")
    return markdown(rows)


def cell(share: Share) -> str:
    """Say a count with the interval of its share in per cent."""
    low, high = share.interval
    return f"{share.count} ({100 * low:.1f}–{100 * high:.1f} %)"


def correlations(screened: dict[str, Screened]) -> str:
    """Return a row a figure known beforehand: its correlation with the size of the update in each screening."""
    names = list(dict.fromkeys(name for one in screened.values() for name in one.correlations))
    rows = [["", *screened], ["---"] * (len(screened) + 1)]
    for name in names:
        values = (one.correlations.get(name) for one in screened.values())
        rows.append([name, *("–" if v is None else str(v) for v in values)])
    return markdown(rows)


def told(label: str, screened: Screened) -> str:
    """Return a row a figure known beforehand: its AUC for each verdict that can be predicted, or why none can."""
    refused = "".join(f"{label}: {reason}\n" for reason in screened.refused.values())
    if not screened.predictions:
        return refused
    found: dict[str, dict[str, Figure]] = {}
    for verdict, p in screened.predictions.items():
        found[verdict] = {f.name: f for f in (p.whole, size(screened.screening, verdict), *p.figures)}
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    rows = [[f"{label}: AUC", *(f"{v} ({p.positives} of {p.facts})" for v, p in screened.predictions.items())]]
    rows.append(["---"] * len(rows[0]))
    for name in names:
        figures = (found[verdict].get(name) for verdict in found)
        rows.append([name, *("–" if f is None else f"{f.auc:.3f} ({f.low:.3f}–{f.high:.3f})" for f in figures)])
    return markdown(rows) + refused


def size(screening: Screening, verdict: str) -> Figure:
    """Return how well the exact size of the update tells a verdict; no fit, and nothing that is unknown beforehand."""
    sizes = screening.judged["relative"].to_numpy()
    return told_by(screening, verdict, "‖ΔW‖/‖W₀‖ itself", sizes, np.random.default_rng(0))


def markdown(rows: list[list[str]]) -> str:
    """Write a table."""
    return "".join(f"| {' | '.join(value.replace('|', chr(92) + '|') for value in row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
