"""Lay screenings beside one another: the figure and the tables of docs/results/questions/disabling-edits.md.

    python scripts/disabling_edits.py rome=screens/rome r-rome=screens/r-rome --figure docs/images/disabling-edits.svg

Each was made by `errata screen`; the tables go to standard output.
"""

import argparse
import sys
from pathlib import Path

from errata.analysis.screening import KNOWN, Share, load_screening
from errata.files import write_aside
from errata.report.screen import Screened
from errata.report.screen_charts import distances, svg

VERDICTS = ("disabling", "damaging", "outsized")


def main() -> int:
    """Read the screenings, print the tables, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screens", nargs="+", metavar="LABEL=DIR")
    parser.add_argument("--figure", type=Path, help="where the distances are drawn, as SVG")
    args = parser.parse_args()
    screened = {}
    for pair in args.screens:
        label, _, place = pair.partition("=")
        screened[label] = Screened.of(load_screening(Path(place or label)))
    if args.figure:
        write_aside(args.figure, svg(distances({k: s.screening for k, s in screened.items()}, alone=True)).encode())
    sys.stdout.write(table(screened) + "\n" + known(screened))
    return 0


def table(screened: dict[str, Screened]) -> str:
    """Return a row a screening: verdicts with their intervals, distances, the least overlap of keys."""
    heads = ["", "facts", *VERDICTS, "median distance", "largest", "ratio", "least key_overlap"]
    rows = [heads, ["---"] * len(heads)]
    for label, one in screened.items():
        s, spread = one.screening, one.as_json()["distance"]
        overlap = s.judged[f"{KNOWN}key_overlap"].abs().min() if f"{KNOWN}key_overlap" in s.judged.columns else None
        figures = [f"{spread['median']:.2e}", f"{spread['max']:.2e}", f"{spread['ratio']:.1f}"]
        rows.append([label, str(len(s.judged)), *(cell(s.share(v)) for v in VERDICTS), *figures])
        rows[-1].append("–" if overlap is None else f"{overlap:.2f}")
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(share: Share) -> str:
    """Say a count with the interval of its share in per cent."""
    low, high = share.interval
    return f"{share.count} ({100 * low:.1f}–{100 * high:.1f} %)"


def known(screened: dict[str, Screened]) -> str:
    """Return a row a figure known beforehand: its correlation with the size of the update in each screening."""
    names = list(dict.fromkeys(name for one in screened.values() for name in one.correlations))
    rows = [["", *screened], ["---"] * (len(screened) + 1)]
    for name in names:
        values = (one.correlations.get(name) for one in screened.values())
        rows.append([name.replace("|", "\\|"), *("–" if v is None else str(v) for v in values)])
    for label, one in screened.items():
        for verdict, p in one.predictions.items():
            sys.stderr.write(
                f"{label}: {verdict} told with AUC {p.whole.auc:.2f} ({p.whole.low:.2f}–{p.whole.high:.2f})\n"
            )
            for f in p.figures[:4]:
                sys.stderr.write(f"  {f.name}: {f.auc:.2f} ({f.low:.2f}–{f.high:.2f})\n")
        for verdict, reason in one.refused.items():
            sys.stderr.write(f"{label}: {verdict}: {reason}\n")
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
