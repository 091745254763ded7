"""Does the order of the edits matter?"""

import numpy as np
import polars as pl

from errata.analysis.curves import curve
from errata.analysis.intervals import wilson
from errata.analysis.reordered import agreement, chance_spread, fates, with_position
from errata.report.question_charts import Axis, below, ranges
from errata.report.words import share
from errata.studies.questions.age import orders_work
from errata.studies.questions.question import Answer, Question, Table
from errata.studies.questions.recipes import FORMS
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size

__all__ = ["QUESTION"]


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
        kept = by_run["kept"].to_numpy()
        n = int(by_run["len"][0])
        unrelated = [float(np.nan_to_num(curve(run, "unrelated.exact", lost=True).values[-1])) for run in runs]
        asked = len(runs[0].metric("unrelated.exact").filter(pl.col("step") == 0))
        same, position = agreement(found, results.rng()), with_position(found, results.rng())
        spread, chance = float(kept.std(ddof=1)), chance_spread(float(kept.mean()), n)
        rows.append(
            [
                form,
                ", ".join(share(k) for k in kept),
                f"{100 * spread:.1f} points, {100 * chance:.1f}",
                _figure(same),
                _figure(position),
                ", ".join(share(u) for u in unrelated),
            ]
        )
        values.append(
            {"method": form, "kept": kept.tolist(), "spread": spread, "chance": chance, "agreement": list(same)}
            | {"position": list(position), "unrelated": unrelated}
        )
        for k, (a, b) in enumerate(zip(kept.tolist(), unrelated, strict=True)):
            kept_points.append(_point(form, k, a, n))
            left_points.append(_point(form, k, b, asked))
    columns = ["method", "kept at the end, by order", "spread of orders, and by chance", "same facts lost (φ)"]
    columns += ["fate with position (r)", "unrelated facts at the end, by order"]
    note = (
        "Spread: standard deviation over orders; by chance: what it would be if every fact's fate were drawn anew in "
        "each. φ: mean correlation of the facts' fates between two orders; r: correlation of being kept with the "
        "position in the order, above 0 where later edits are kept. 95 % intervals, facts resampled."
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


def _figure(found: tuple[float, float, float]) -> str:
    value, low, high = found
    if not np.isfinite(value):
        return "–"
    return f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")


QUESTION = Question(
    name="order",
    title="Does the order of the edits matter?",
    work=orders_work,
    about=about,
    answer=answer,
)
