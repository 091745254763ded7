"""Show a run's progress: a bar with rate, time left and the latest figures on a terminal, plain lines elsewhere."""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from rich import progress as bars
from rich.console import Console

from errata.probes.rows import Row
from errata.studies.duration import lasting
from errata.studies.progress import Progress
from errata.trajectory import Entry

__all__ = ["TerminalProgress"]

_PLAIN_EVERY = 20  # edits between lines where there is no terminal
_SILENT = 30.0  # seconds after which there is a line all the same
_SHORT = 5  # seconds that need no word
_BETWEEN = 10  # seconds between two lines on one piece of work
_WINDOW = 20  # edits over which rate and efficacy are averaged


class TerminalProgress(Progress):
    """Report on standard error, so that standard output stays for results."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._console = Console(stderr=True)
        self._bar: bars.Progress | None = None
        self._task = bars.TaskID(0)
        self._total = 0
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._efficacy: deque[float] = deque(maxlen=_WINDOW)
        self._figures: dict[str, float] = {}
        self._work = ""
        self._first = 0
        self._begun = self._told = time.monotonic()
        self._shown: bars.TaskID | None = None
        self._waiting: threading.Timer | None = None

    def tell(self, message: str) -> None:
        """Print a remark."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def doing(self, what: str, done: int, total: int) -> None:
        """Show what takes longer than some seconds: as a bar, or in a line now and then.

        What says nothing more after its beginning, such as a model that is loaded, gets one line all the same.
        """
        now = time.monotonic()
        if what != self._work:
            self._work, self._first, self._begun = what, done, now
            self._wait_for(what if done < total else "")
        elif done != self._first:
            self._wait_for("")
        spent = now - self._begun
        left = f"{lasting(spent / (done - self._first) * (total - done))} left" if self._first < done else ""
        if done >= total:
            self._work = ""
            self._wait_for("")
            if self._bar is not None and self._shown is not None:
                self._bar.remove_task(self._shown)
                if not self._bar.tasks:
                    self.end()
            self._shown = None
        elif self._console.is_terminal and spent > _SHORT:
            bar = self._drawn()
            if self._shown is None:
                self._shown = bar.add_task(what, total=total, rate="", left="", figures="")
            bar.update(self._shown, description=what, completed=done, total=total, left=left)
        elif now - max(self._told, self._begun) > (_BETWEEN if self._told > self._begun else _SHORT):
            self._told = now
            self.tell(f"{self._label}: {what} {done}/{total}{left and ', '}{left}")

    def _wait_for(self, what: str) -> None:
        """Say what is done, should nothing be heard of it for some seconds."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = threading.Timer(_SHORT, self.tell, [f"{self._label}: {what} ..."]) if what else None
        if self._waiting is not None:
            self._waiting.daemon = True
            self._waiting.start()

    def _drawn(self) -> bars.Progress:
        """Return what draws bars, begun."""
        if self._bar is None:
            self._bar = bars.Progress(
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TextColumn("{task.fields[rate]}"),
                bars.TextColumn("{task.fields[left]}"),
                bars.TextColumn("{task.fields[figures]}"),
                console=self._console,
            )
            self._bar.start()
        return self._bar

    def begin(self, step: int, total: int) -> None:
        """Start the bar."""
        self._total = total
        if self._console.is_terminal:
            self._task = self._drawn().add_task(self._label, total=total, completed=step, rate="", left="", figures="")

    def edited(self, entries: Sequence[Entry], rows: Mapping[str, Sequence[Row]], seconds: float) -> None:
        """Move on by one batch."""
        step = entries[-1].step
        self._seconds.append(seconds / len(entries))
        self._note(step, rows)
        for entry in entries[:1]:
            if entry.status != "applied":
                self.tell(f"{self._label}: edit {entry.edit} ({entry.subject}) {entry.status}: {entry.verdict}")
        # What the last edits took, their probes included, tells best what the next ones will take.
        rate = sum(self._seconds) / len(self._seconds)
        left, now = f"{lasting((self._total - step) * rate)} left", time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=f"{rate:.2f} s/edit", left=left, figures=self._words())
        elif step % _PLAIN_EVERY < len(entries) or step == self._total or now - self._told > _SILENT:
            self._told = now
            self.tell(f"{self._label}: {step}/{self._total} edits, {rate:.2f} s/edit, {left}, {self._words()}")

    def _note(self, step: int, rows: Mapping[str, Sequence[Row]]) -> None:
        latest = [row for found in rows.values() for row in found if row.step == step]
        now = [row.value for row in latest if row.metric == "efficacy.success@now"]
        if now:
            self._efficacy.append(sum(now) / len(now))
            self._figures["efficacy"] = sum(self._efficacy) / len(self._efficacy)
        from errata.analysis.curves import main_figures

        values: dict[str, list[float]] = {}
        for row in latest:
            values.setdefault(row.metric, []).append(row.value)
        means = {metric: sum(found) / len(found) for metric, found in values.items()}
        for label, metric in (("recalled", "efficacy.exact@retest"), ("unrelated", "unrelated.exact")):
            if metric in means:
                self._figures[label] = means[metric]
        if tasks := [values[metric] for metric in main_figures(values).values()]:
            known = [[value for value in found if not math.isnan(value)] for found in tasks]
            answered = [sum(found) / len(found) for found in known if found]
            self._figures["tasks"] = sum(answered) / len(tasks) if answered else math.nan

    def _words(self) -> str:
        return "  ".join(f"{k} {'dead' if math.isnan(v) else format(v, '.2f')}" for k, v in self._figures.items())

    def end(self) -> None:
        """Stop the bar."""
        self._wait_for("")
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._shown = None
        sys.stderr.flush()
