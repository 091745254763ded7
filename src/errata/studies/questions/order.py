"""Does the order of the edits matter?"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.curves import curve
from errata.analysis.frames import RunFrames
from errata.analysis.intervals import wilson
from errata.analysis.reordered import Figure, Spread, agreement, fate_table, fates, spread, with_position
from errata.report.question_charts import Axis, below, ranges
from errata.report.words import DASH, number, share
from errata.studies.questions.age import orders_work
from errata.studies.questions.question import Answer, Question, Table
from errata.studies.questions.recipes import FORMS
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size

__all__ = ["QUESTION"]

NEARLY = 0.995
"""A share of the resamples that need not be told from all."""


def about(size: Size) -> str:
    """Say what is run."""
    return f"The same {size.edits} facts of as many people in {size.samples} orders, one at a time."


def answer(results: Results) -> Answer:
    """Compare the orders: how much is kept in each, whether they lose the same facts, and those early or late."""
    rows, values, kept_points, left_points = [], [], [], []
    for form in FORMS:
        runs = [results.run(name) for name in results.names(f"orders/{form}/*")]
        if len(runs) < 2:
            continue
        found = fates(runs)
        by_run = found.group_by("run", maintain_order=True).agg(pl.col("kept").mean(), pl.len())
        kept, table = by_run["kept"].to_numpy(), fate_table(found)
        n = int(by_run["len"][0])
        unrelated = [float(np.nan_to_num(curve(run, "unrelated.exact", lost=True).values[-1])) for run in runs]
        asked = len(runs[0].metric("unrelated.exact").filter(pl.col("step") == 0))
        same, position = agreement(found, results.rng()), with_position(found, results.rng())
        apart = spread(table, results.rng())
        others = spread(_unrelated(runs), results.rng())
        lost = int((table < 1).any(axis=1).sum())
        rows.append(
            [
                form,
                ", ".join(share(k) for k in kept),
                _spread(apart),
                f"{_figure(same)}; {lost} of {len(table)}",
                _figure(position),
                ", ".join(share(u) for u in unrelated),
                _spread(others),
            ]
        )
        values.append(
            {"method": form, "kept": kept.tolist(), "spread": asdict(apart), "agreement": same._asdict(), "lost": lost}
            | {"position": position._asdict(), "unrelated": unrelated, "unrelated spread": asdict(others)}
        )
        for k, (a, b) in enumerate(zip(kept.tolist(), unrelated, strict=True)):
            kept_points.append(_point(form, k, a, n))
            left_points.append(_point(form, k, b, asked))
    columns = ["method", "kept at the end, by order", "spread of orders, by chance", "same facts lost (φ); ever lost"]
    columns += ["fate with position (r)", "unrelated facts at the end, by order", "their spread, by chance"]
    note = (
        "Spread: standard deviation over orders; by chance: what it would be if each fact's fates fell to the orders "
        "by lot, each fact with a chance of its own; p: how often they then lie at least as far apart. φ: mean "
        "correlation of the facts' fates between two orders, over the pairs of which both lose some; in parentheses "
        "the 95 % interval over facts, of the resamples that hold such a pair (their share is given where some do "
        "not); p: how often φ is as large if each order loses as many facts by lot; ever lost: facts that some order "
        "loses, on which φ rests. r: correlation of being kept with the position in the order, above 0 where later "
        "edits are kept."
    )
    frames = [pl.DataFrame(points) for points in (kept_points, left_points)]
    titles = ("edits kept at the end", "unrelated facts right at the end")
    drawn = [ranges(f, Axis(title, share=True)) for f, title in zip(frames, titles, strict=True)]
    caption = "Each order's edits kept (above) and unrelated facts right (below) at the end, with Wilson's intervals"
    metrics = ("efficacy.exact@now", "efficacy.exact@retest", "unrelated.exact")
    return Answer([Table(columns, rows, values, note)], below(*drawn), caption, metrics)


def _point(form: str, order: int, value: float, n: int) -> dict[str, object]:
    low, high = wilson(value * n, n)
    return {"group": form, "series": f"order {order}", "value": value, "low": low, "high": high}


def _unrelated(runs: Sequence[RunFrames]) -> NDArray[np.float64]:
    """Return whether each unrelated fact is right at the end: a row a fact, a column an order."""
    ends = [run.metric("unrelated.exact").filter(pl.col("step") == pl.col("step").max()) for run in runs]
    right = (pl.col("value") == 1).fill_null(False).cast(pl.Float64)
    frames = [end.select("prompt_id", right.alias(str(k))) for k, end in enumerate(ends)]
    return reduce(lambda a, b: a.join(b, on="prompt_id", validate="1:1"), frames).drop("prompt_id").to_numpy()


def _spread(found: Spread) -> str:
    return f"{100 * found.value:.1f} points, {100 * found.chance:.1f} (p = {number(found.p, 2)})"


def _figure(found: Figure) -> str:
    if not np.isfinite(found.value):
        return DASH
    of = "" if found.known > NEARLY else f" in {share(found.known)}"
    bounds = f" ({found.low:.2f} to {found.high:.2f}{of})" if np.isfinite(found.low) else ""
    return f"{found.value:.2f}{bounds}" + (f", p = {number(found.p, 2)}" if np.isfinite(found.p) else "")


QUESTION = Question(
    name="order",
    title="Does the order of the edits matter?",
    work=orders_work,
    about=about,
    answer=answer,
    least_samples=2,
)
