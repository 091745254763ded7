"""Make the pages: one self-contained file a run, which asks for nothing outside itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from errata.analysis.advice import few_taken
from errata.analysis.chance import without_signal
from errata.analysis.curves import summary
from errata.analysis.frames import RunFrames, load_run
from errata.analysis.room import taken_back
from errata.analysis.verdict import Verdict, judge
from errata.files import write_aside
from errata.report.charts import Mark, chart, marks_of, strip
from errata.report.edits import edit_rows
from errata.report.extras import altair, vega_script
from errata.report.figures import Figure, figures, overview
from errata.report.keys import keys
from errata.report.scorers_table import scorers_table
from errata.report.theme import css
from errata.report.words import number, outcome, safe_json, share

__all__ = ["Judged", "render", "report", "specs"]


@dataclass(frozen=True)
class Judged:
    """A run with all that is derived from its rows."""

    run: RunFrames
    curves: pl.DataFrame
    verdict: Verdict

    @classmethod
    def of(cls, path: Path, seed: int = 0) -> "Judged":
        """Read and judge a run.

        Args:
            path: the run directory.
            seed: of the bootstraps.
        """
        run = load_run(path)
        return cls(run, summary(run, seed), judge(run, seed))


def report(path: Path, out: Path | None = None, seed: int = 0) -> tuple[Path, Judged]:
    """Write a run's report.

    Args:
        path: the run directory.
        out: the page; `report.html` in the run directory by default.
        seed: of the bootstraps.

    Returns:
        The page, and the run with its verdict.
    """
    altair()  # asked for before any work is done
    judged = Judged.of(path, seed)
    run, verdict = judged.run, judged.verdict
    drawn = figures(run, judged.curves, verdict)
    marks = [marks_of(verdict)]
    page = render(
        "report.html.j2",
        run=run,
        title=run.info["config"].get("report", {}).get("title") or run.name,
        verdict=verdict,
        remarks=[*taken_back(run), *few_taken(run), *without_signal(run)],
        keys=keys(verdict, judged.curves),
        overview=overview(judged.curves),
        figures=drawn,
        specs=specs(overview(judged.curves), drawn, marks, verdict.edits),
        scorers=scorers_table(run, seed),
        edits=edit_rows(run),
        config=run.info["config"],
        facts=_provenance(run),
    )
    target = out or path / "report.html"
    write_aside(target, page.encode())
    return target, judged


def specs(top: Figure, drawn: Sequence[Figure], marks: Sequence[Mark], edits: int) -> dict[str, Any]:
    """Return every chart's specification under its name."""
    last = max(edits, 1)
    return {top.name: strip(top, marks, last), **{f.name: chart(f, marks, last) for f in drawn}}


def render(template: str, **content: Any) -> str:
    """Fill a template; everything in it is escaped unless it was made safe."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("errata.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "number": number, "outcome": outcome, "safe_json": _script}
    environment.globals |= {"palette": css(), "vega": vega_script(), "version": version("errata")}
    return environment.get_template(template).render(**content)


def _script(content: Any) -> str:
    """Return JSON that a script element may hold."""
    from markupsafe import Markup

    return Markup(safe_json(content))


def _provenance(run: RunFrames) -> Mapping[str, str]:
    """Return what a reader needs to repeat the run."""
    info, config = run.info, run.info["config"]
    stream = info.get("stream", {})
    hardware = info.get("hardware", {})
    facts = {
        "method": config["method"]["name"],
        "model": config["model"]["name"],
        "model fingerprint": info.get("model_fingerprint"),
        "facts": f"{stream.get('n', len(run.facts))} of {config.get('edits', {}).get('dataset', 'a file')}, "
        f"in batches of {stream.get('batch_size', 1)}",
        "facts' fingerprint": stream.get("fingerprint"),
        "seed": config.get("run", {}).get("seed"),
        "commit": info.get("git"),
        "versions": ", ".join(f"{k} {v}" for k, v in info.get("versions", {}).items()),
        "hardware": ", ".join(f"{k} {v}" for k, v in hardware.items() if v is not None),
        "command": " ".join(info.get("command", [])),
        "time editing": f"{run.journal['seconds'].sum():,.0f} s" if len(run.journal) else None,
    }
    return {k: str(v) for k, v in facts.items() if v not in (None, "")}
