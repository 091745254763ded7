"""Which downstream tasks the unedited model answers no better than by guessing: they cannot show a loss."""

from collections.abc import Iterable

import polars as pl

from errata.analysis.frames import RunFrames
from errata.analysis.intervals import wilson

__all__ = ["guessed", "without_signal"]


def without_signal(run: RunFrames) -> list[str]:
    """Return a sentence for each task of a run that carries no signal; none where the start was not measured."""
    start = run.rows().filter(pl.col("step") == 0, pl.col("metric").str.starts_with("downstream."))
    return guessed(start.select("metric", "value").collect().iter_rows())


def guessed(figures: Iterable[tuple[str, float]]) -> list[str]:
    """Return a sentence for each task whose score may be chance: Wilson's interval does not lie above it.

    One more tells how many items have no answer in the data, where there are any.

    Of the first paper's four tasks GPT-J did one better than by guessing (2401.07453, Figure 25), so the others' curves
    say nothing about editing.

    Args:
        figures: metric and value of the unedited model's downstream rows.
    """
    right: dict[str, int] = {}
    asked: dict[str, int] = {}
    chance: dict[str, float] = {}
    unanswered: dict[str, float] = {}
    for metric, value in figures:
        first, _, rest = metric.partition(".")
        task, _, what = rest.rpartition(".")
        if first != "downstream":
            continue
        if what == "item":
            asked[task] = asked.get(task, 0) + 1
            right[task] = right.get(task, 0) + (value == 1)
        elif what == "chance":
            chance[task] = value
        elif what == "unanswered":
            unanswered[task] = value
    found = []
    for task in sorted(chance.keys() & asked.keys()):
        n = round(asked[task] * (1 - unanswered.get(task, 0.0)))
        low, high = wilson(right[task], n)
        if n == 0:
            found.append(f"The task {task} carries no signal: its data hold no answer to compare with.")
            continue
        if n < asked[task]:
            found.append(
                f"Of the {asked[task]} items of the task {task}, {asked[task] - n} have no answer in the data to "
                f"compare with: they are asked and counted, and are in no score."
            )
        if low <= chance[task]:
            found.append(
                f"The task {task} carries no signal: before any edit the model answers {right[task] / n:.0%} of {n} "
                f"items right (95 % interval {low:.0%} to {high:.0%}), and guessing gives {chance[task]:.0%}."
            )
    return found
