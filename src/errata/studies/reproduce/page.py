"""Write what was found: a table of claims as JSON, Markdown and one self-contained page."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import cycle
from pathlib import Path
from typing import Any

from errata.files import write_aside
from errata.report.charts import marks_of
from errata.report.compare import comparison, overview
from errata.report.page import Judged, render, specs
from errata.report.theme import SERIES
from errata.report.words import DASH
from errata.studies.reproduce.claims import DOES_NOT, HOLDS, NOT_MADE, NOT_TESTABLE, Claim, Finding, not_made
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Exhibit, Reproduction, Size

__all__ = ["Page", "Row"]

UNCOUNTED = "the paper has no figure for them, or they are of a second form of a method or model"


@dataclass(frozen=True)
class Row:
    """A claim with what was found, the command that makes this row alone, and the directories it was read from."""

    claim: Claim
    finding: Finding
    command: str
    sources: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON holds it."""
        c = self.claim
        return {
            "id": c.id,
            "section": c.section,
            "claim": c.sentence,
            "paper": c.paper,
            **self.finding.as_json(),
            "counted": c.counted,
            "command": self.command,
            "runs": list(self.sources),
            "metrics": list(c.rows),
        }


@dataclass(frozen=True)
class Page:
    """A reproduction's results, ready to be written.

    Args:
        paper: whose claims.
        about: paragraphs on what the figures can and cannot say.
        rows: a row a claim.
        exhibits: what is to be read beside them.
        command: makes everything.
    """

    paper: Reproduction
    about: tuple[str, ...]
    rows: tuple[Row, ...]
    exhibits: tuple[Exhibit, ...]
    command: str

    @classmethod
    def of(cls, paper: Reproduction, size: Size, claims: Sequence[Claim], results: Results, command: str) -> "Page":
        """Measure every claim whose runs are there.

        Args:
            paper: whose claims.
            size: of the reproduction.
            claims: which.
            results: the finished runs.
            command: makes everything of this size; `--claim ID` after it makes one row.
        """
        made = []
        for claim in claims:
            names = [*results.paths, *results.screens]
            sources = tuple(name for name in names if any(fnmatchcase(name, p) for p in claim.needs))
            missing = results.missing(claim.needs)
            whole = results.has(claim.needs)
            finding = noted(claim.measure(results), sources, missing) if whole else not_made(missing)
            made.append(Row(claim, finding, f"{command} --claim {claim.id}", sources))
        exhibits = tuple(paper.exhibits(results)) if len(claims) == len(paper.claims) else ()
        return cls(paper, tuple(paper.about(size)), tuple(made), exhibits, command)

    @property
    def sections(self) -> Mapping[str, list[Row]]:
        """The rows under their headings."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.claim.section, []).append(row)
        return found

    @property
    def tally(self) -> str:
        """How many claims hold, do not, and cannot be tested, in words."""
        found = Counter(r.finding.verdict for r in self.rows if r.claim.counted)
        beside = sum(not r.claim.counted for r in self.rows)
        said = (
            f"{found.total()} claim{'' if found.total() == 1 else 's'}: {found[HOLDS]} hold, {found[DOES_NOT]} do not, "
            f"{found[NOT_TESTABLE]} cannot be tested here"
        )
        said += f", the runs of {found[NOT_MADE]} were not made." if found[NOT_MADE] else "."
        return f"{said} {beside} further rows (○) are not counted: {UNCOUNTED}." if beside else said

    def grid(self, rows: Iterable[Row]) -> tuple[list[str], dict[str, dict[str, Row]]]:
        """Lay the rows that stand in the paper's own table out as it does: its columns, and its rows by name."""
        columns: list[str] = []
        cells: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row.claim.cell is not None:
                name, column = row.claim.cell
                cells.setdefault(name, {})[column] = row
                columns += [column] if column not in columns else []
        return columns, cells

    def as_json(self) -> str:
        """Return everything as JSON."""
        content = {
            "paper": self.paper.title,
            "arxiv": self.paper.arxiv,
            "command": self.command,
            "about": list(self.about),
            "claims": [row.as_json() for row in self.rows],
        }
        return json.dumps(content, indent=1, ensure_ascii=False)

    def markdown(self) -> str:
        """Return the page in Markdown."""
        title = f"# {self.paper.title}: what of it holds here"
        made = f"Made by `{self.command}`; every figure is computed from the runs' rows. {self.tally}"
        parts = [title, "", f"[{self.paper.arxiv}](https://arxiv.org/abs/{self.paper.arxiv}). {made}", ""]
        parts += [line for text in self.about for line in (text, "")]
        for section, rows in self.sections.items():
            parts += [f"## {section}", ""]
            columns, cells = self.grid(rows)
            if cells:
                parts += [_line(["", *columns]), _line(["---"] * (1 + len(columns)))]
                parts += [_line([n, *(_brief(row.get(c)) for c in columns)]) for n, row in cells.items()]
                parts += [""]
            parts += [_line(["claim", "the paper", "here", "verdict, row"]), _line(["---"] * 4)]
            parts += [
                _line([_(r.claim.sentence), _(r.claim.paper), _(r.finding.text), f"{_verdict(r)} `{r.claim.id}`"])
                for r in rows
            ]
            parts += [""]
        parts += _exhibits(self.exhibits)
        alone = f"`{self.command} --claim ROW` makes a row alone. Differences are taken before they are rounded."
        parts += [
            "## Where each figure comes from",
            "",
            alone,
            "",
            _line(["row", "runs", "metrics", "rule"]),
            _line(["---"] * 4),
        ]
        parts += [_line([f"`{r.claim.id}`", *_trace(r), _(r.finding.note)]) for r in self.rows]
        return "\n".join(parts) + "\n"

    def html(self, results: Results) -> str:
        """Return the page as one self-contained file, with the charts of the runs that the paper's page shows."""
        shown = {name: label for name, label in self.paper.shown.items() if name in results.paths}
        runs = [Judged.of(results.paths[name], results.seed) for name in shown]
        names = list(shown.values())
        drawn = comparison(runs, names) if runs else []
        marks = [marks_of(r.verdict, color, gradual=False) for r, color in zip(runs, SERIES, strict=False)]
        top = overview(runs, names) if drawn else None
        edits = max((r.verdict.edits for r in runs), default=0)
        return render(
            "reproduce.html.j2",
            page=self,
            runs=[(n, c, r.run, r.verdict) for n, c, r in zip(names, cycle(SERIES), runs, strict=False)],
            overview=top,
            figures=drawn,
            specs=specs(top, drawn, marks, edits) if top else {},
        )

    def write(self, out: Path, results: Results) -> None:
        """Write claims.json, claims.md and claims.html into a directory."""
        write_aside(out / "claims.json", (self.as_json() + "\n").encode())
        write_aside(out / "claims.md", self.markdown().encode())
        write_aside(out / "claims.html", self.html(results).encode())


def noted(finding: Finding, sources: Sequence[str], missing: Sequence[str]) -> Finding:
    """Add to a finding's note what of its runs is missing, and that one run each cannot say how far runs differ."""
    notes = [finding.note] if finding.note else []
    if missing:
        notes += [f"of {len(sources) + len(missing)} runs {len(sources)}; not there: {', '.join(missing)}"]
    kinds = Counter(name.rpartition("/")[0] for name in sources if not name.startswith("first/"))
    if kinds and max(kinds.values()) == 1 and math.isfinite(finding.low):
        notes += ["one run of a kind: the interval is over its items or edits alone, not over runs"]
    return replace(finding, note="; ".join(notes))


def _(text: str) -> str:
    """Escape what Markdown would take for markup, as in a generated text."""
    for sign in "\\|`*_<>[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _verdict(row: Row) -> str:
    said = f"**{row.finding.verdict}**" if row.finding.verdict == DOES_NOT else row.finding.verdict
    return said if row.claim.counted else f"{said} ○"


def _brief(row: Row | None) -> str:
    if row is None:
        return DASH
    return _verdict(row) if row.finding.text == DASH else f"{_(row.finding.text)}: {_verdict(row)}"


def _trace(row: Row) -> tuple[str, str]:
    return ", ".join(f"`{n}`" for n in row.claim.needs) or DASH, ", ".join(f"`{m}`" for m in row.claim.rows) or DASH


def _exhibits(exhibits: Sequence[Exhibit]) -> list[str]:
    lines = ["## What the models say", ""] if exhibits else []
    for exhibit in exhibits:
        lines += [f"**{_(exhibit.title)}** ({_(exhibit.source)})", ""]
        lines += [f"- {_(asked)} … {_(said) or '(nothing)'}" for asked, said in exhibit.lines] + [""]
    return lines
