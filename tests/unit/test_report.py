"""The report: what is in the page, how it is escaped, what the table says, and what is exported."""

import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from errata.analysis.curves import SUMMARY_COLUMNS, main_figures, mean_of_tasks, tasks
from errata.analysis.frames import load_run
from errata.cli import report as commands
from errata.errors import ConfigError, MissingExtraError
from errata.report.compare import compare, comparison
from errata.report.extras import vega_script
from errata.report.figures import figures, overview
from errata.report.keys import keys
from errata.report.page import Judged, report
from errata.report.table3 import table3
from errata.report.theme import resolve
from errata.report.words import number, outcome, safe_json, share
from fake_run import make_run

EVIL = "<script>alert('\u2028')</script>{{ 7*7 }}\"&"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    return {
        "rome": make_run(base / "rome", subject=EVIL),
        "memit": make_run(base / "memit", collapse=None, decay=0.0005, method="memit", seed=1),
        "dead": make_run(base / "dead", dead=True, decay=0.004, method="ft_c", seed=2),
    }


@pytest.fixture(scope="module")
def page(runs: dict[str, Path]) -> str:
    return report(runs["rome"])[0].read_text(encoding="utf-8")


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    made.command()(commands.report)
    made.command()(commands.compare)
    made.command()(commands.frames)
    return made


class Elements(HTMLParser):
    """Collect the elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def specs_of(text: str) -> dict[str, dict[str, object]]:
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', text, re.DOTALL)
    assert found
    content: dict[str, dict[str, object]] = json.loads(found.group(1))
    return content


def test_the_verdict_comes_first_and_provenance_last(page: str) -> None:
    places = [
        page.index(mark)
        for mark in ('class="verdict"', 'class="keys"', 'id="overview"', 'id="edits"', 'class="provenance"')
    ]
    assert places == sorted(places)
    assert "Collapse at edit 140" in page
    assert "0123456789abcdef" in page


def test_the_page_asks_for_nothing_outside_itself(page: str) -> None:
    for tag, attributes in Elements(page).found:
        assert not {"src", "href", "srcset", "data", "action"} & set(attributes), tag
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
    addresses = set(re.findall(r"https?://[\w.-]+", page))
    assert addresses == {"http://www.w3.org"}, "names of XML namespaces only"
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_user_data_is_escaped_everywhere(page: str, runs: dict[str, Path], tmp_path: Path) -> None:
    assert EVIL not in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page
    assert "{{ 7*7 }}" in page, "user data is not a template"
    evil = tmp_path / "evil"
    make_run(evil, n=20, collapse=None, method="</script><script>alert(1)</script>")
    other, _, _ = compare([evil, runs["memit"]], tmp_path / "compare.html")
    text = other.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "\\u003c/script\\u003e" in text, "labels inside the charts' JSON cannot close the script element"
    assert len(re.findall("<script", re.sub(r"<script.*?</script>", "<script", text, flags=re.DOTALL))) == 3


def test_every_chart_shares_the_step_axis(page: str) -> None:
    specs = specs_of(page)
    assert set(specs) >= {"overview", "proficiency", "forgetting", "downstream", "drift-relative", "drift-mean_abs"}
    for name, spec in specs.items():
        if name in ("overview", "survival"):
            continue
        assert [p["name"] for p in spec["params"] if "value" in p] == ["first", "last"], name  # type: ignore[attr-defined]
        assert spec["width"] == "container"
    assert "$schema" not in json.dumps(specs)
    assert len(page) < 2_500_000


def test_a_dead_model_is_dead_and_not_zero(runs: dict[str, Path]) -> None:
    page, judged = report(runs["dead"])
    text = page.read_text(encoding="utf-8")
    assert "dead" in text
    spec = specs_of(text)["perplexity"]
    values = [row["value"] for data in _datasets(spec) for row in data if "value" in row]
    assert None in values
    assert 0 not in values
    assert "NaN" not in re.search(r'id="specs">(.*?)</script>', text, re.DOTALL).group(1)  # type: ignore[union-attr]
    assert math.isnan(judged.curves.filter(pl.col("metric") == "perplexity")["value"].to_list()[-1])


def _datasets(spec: dict[str, object]) -> list[list[dict[str, object]]]:
    named = spec.get("datasets", {})
    inline = [layer["data"] for layer in spec["layer"] if "data" in layer]  # type: ignore[attr-defined]
    return [d["values"] if "values" in d else named[d["name"]] for d in inline]  # type: ignore[index]


def test_the_edits_table_marks_the_disabling_edit(page: str) -> None:
    marked = re.findall(r'<tr class="marked">.*?</tr>', page, re.DOTALL)
    assert len(marked) == 1
    assert 'data-value="140"' in marked[0]
    assert "right after" in marked[0]


def test_words() -> None:
    assert [share(x) for x in (None, math.nan, 0.0, 0.984)] == ["–", "dead", "0 %", "98 %"]
    assert [number(x) for x in (None, math.inf, 0.012345, 12345.0)] == ["–", "dead", "0.0123", "12,345"]
    assert [outcome(x) for x in (None, 1.0, 0.0, 0.5, math.nan)] == ["–", "yes", "no", "50 %", "dead"]
    assert json.loads(safe_json({"a": [math.nan, math.inf, "</script>"]})) == {"a": [None, None, "</script>"]}
    assert "<" not in safe_json("</script>")


def test_the_script_closes_no_element() -> None:
    assert "</script" not in vega_script()
    assert "var(" not in json.dumps(resolve({"color": "var(--red)"}))


def test_table_3_uses_the_papers_words(runs: dict[str, Path]) -> None:
    judged = [Judged.of(runs[name]) for name in ("rome", "memit", "dead")]
    table = table3([(j.run.method, j.run, j.verdict) for j in judged])
    words = {row: [c.word for c in cells] for row, cells in table.rows.items()}
    assert words["single disabling edit"] == ["yes", "no", "yes"]
    assert words["duration before collapse"] == ["long", "not observed", "long"]
    assert words["efficacy"][0] == "<100 % until collapse"
    assert words["loss of downstream before collapse"][1] == "low"
    duration = table.as_json()["duration before collapse"]
    assert duration["rome"]["value"] == 140
    assert duration["memit"]["value"] is None
    assert duration["memit"]["low"] == 200
    for cells in table.rows.values():
        for cell in cells:
            assert not cell.low > cell.value
            assert not cell.high < cell.value
    assert table.markdown().count("\n") == 8
    assert "\\_" in table.latex()
    assert table.latex().count("\\\\\n") == 7


def test_report_command(app: typer.Typer, runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "export"
    done = CliRunner().invoke(app, ["report", str(runs["memit"]), "--json", "--export", str(out)])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)[0]
    assert summary["collapse_step"] is None
    assert summary["edits"] == 200
    assert (runs["memit"] / "report.html").exists()
    names = {f.suffix for f in out.iterdir()}
    assert names == {".svg", ".csv", ".parquet"}
    svg = (out / "proficiency.svg").read_text()
    assert svg.startswith("<svg")
    assert "var(--" not in svg
    assert pl.read_csv(out / "forgetting.csv").columns == ["step", "series", "window", "value", "low", "high"]
    assert len(pl.read_parquet(out / "survival.parquet")) > 5


def test_figures_from_before_an_undo_are_said_to_be_so(app: typer.Typer, tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", n=20, collapse=None)
    last = json.loads((directory / "journal.jsonl").read_text().splitlines()[-1])["step"]
    said = "measured before 1 edit was taken back: it is of the model with it, not of the present one"
    assert said not in report(directory)[0].read_text(encoding="utf-8")
    with (directory / "journal.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(json.dumps({"undo": [last]}) + "\n")
    assert said in report(directory)[0].read_text(encoding="utf-8")
    assert said in CliRunner().invoke(app, ["report", str(directory)]).output
    (found,) = json.loads(CliRunner().invoke(app, ["report", str(directory), "--json"]).stdout)
    assert found["undone"] == 1
    beside = ["compare", str(directory), str(make_run(tmp_path / "other", n=20, collapse=None, seed=1))]
    assert said in CliRunner().invoke(app, [*beside, "--out", str(tmp_path / "both.html")]).output


def test_compare_command(app: typer.Typer, runs: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    args = ["compare", *(str(r) for r in runs.values()), "--out", str(page)]
    done = CliRunner().invoke(app, [*args, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["table"]["single disabling edit"]["rome"]["word"] == "yes"
    assert found["runs"]["rome"]["collapse_step"] == 140
    assert "Table 3" in CliRunner().invoke(app, args).stdout
    assert "| efficacy |" in CliRunner().invoke(app, [*args, "--table", "markdown"]).stdout
    assert {"efficacy-success-now", "survival", "overview"} <= set(specs_of(page.read_text(encoding="utf-8")))


def test_more_runs_than_colours_are_compared_in_tables(runs: dict[str, Path], tmp_path: Path) -> None:
    page, tables, judged = compare([runs["rome"]] * 8, tmp_path / "compare.html")
    assert len(judged) == len(tables.methods.runs) == 8
    assert "Every run in a row" in page.read_text(encoding="utf-8")
    assert not specs_of(page.read_text(encoding="utf-8"))


def test_the_row_of_a_run_is_its_figures(runs: dict[str, Path], tmp_path: Path) -> None:
    path = runs["rome"]
    _, tables, _ = compare([path], tmp_path / "compare.html")
    row = tables.methods.as_json()[tables.methods.runs[0]]
    run = load_run(path)
    now = run.metric("efficacy.success@now").group_by("edit_id").agg(pl.col("value").mean())["value"].mean()
    assert row["efficacy"] == pytest.approx(now)
    last = run.metric("efficacy.exact@retest").filter(pl.col("step") == pl.col("step").max())
    assert row["recalled"] == pytest.approx(last["value"].mean())
    assert row["collapse"] == 140
    assert row["s/edit"] == pytest.approx(run.journal["seconds"].median())
    assert row["peak MB"] is None
    (path / "usage.json").write_text('{"peak_memory_bytes": 5000000}')
    _, tables, _ = compare([path], tmp_path / "compare.html")
    assert tables.methods.as_json()[tables.methods.runs[0]]["peak MB"] == 5
    (path / "usage.json").unlink()


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_frames_command(app: typer.Typer, runs: dict[str, Path], tmp_path: Path, form: str) -> None:
    out = tmp_path / "new" / f"rows.{form}"
    done = CliRunner().invoke(
        app, ["frames", str(runs["dead"]), "--probe", "perplexity", "--format", form, "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    read = {"csv": pl.read_csv, "parquet": pl.read_parquet, "json": pl.read_json}[form]
    frame = read(out)  # type: ignore[operator]
    assert len(frame) == 21
    assert frame["metric"][0] == "perplexity"
    last = frame["value"].to_list()[-1]
    assert last is None if form == "json" else math.isnan(last)


def test_frames_that_cannot_be_written_say_where(app: typer.Typer, runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "rows.csv"
    done = CliRunner().invoke(app, ["frames", str(runs["rome"]), "--out", str(out)])
    assert isinstance(done.exception, ConfigError)
    assert str(out) in str(done.exception)


def test_frames_go_to_standard_output(app: typer.Typer, runs: dict[str, Path]) -> None:
    done = CliRunner().invoke(app, ["frames", str(runs["rome"]), "--probe", "summary"])
    assert done.stdout.splitlines()[0] == "step,metric,window,value,low,high,n,missing"


def test_a_missing_extra_says_how_to_install_it(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtraError, match=r"errata\[report\]"):
        report(runs["rome"])


def test_the_shortest_runs_have_reports_too(tmp_path: Path) -> None:
    for n in (1, 2, 7):
        path = make_run(tmp_path / str(n), n=n, collapse=None)
        assert "Too few points" in report(path)[0].read_text(encoding="utf-8")
    bare = make_run(tmp_path / "bare", n=20, collapse=None)
    for part in (bare / "probes").glob("*/*.parquet"):
        part.unlink()
    assert "nothing that shows their cost was measured" in report(bare)[0].read_text(encoding="utf-8")


def test_a_method_whose_edits_do_not_take_gets_no_good_headline(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", n=60, collapse=None, decay=0.0)
    for part in (path / "probes" / "proficiency").glob("*.parquet"):
        frame = pl.read_parquet(part)
        value = pl.when(pl.col("metric") == "efficacy.success@now").then((pl.col("step") % 20 == 0).cast(pl.Float64))
        frame.with_columns(value.otherwise("value").alias("value")).write_parquet(part)
    words = "the whole run, but only 5% of the new edits took."
    page = report(path)[0].read_text(encoding="utf-8")
    assert f'<p class="headline">Safe to 60 edits, {words}</p>' in page
    assert re.search(r'<div class="bad"><dt>New edits taken</dt><dd>5 %</dd>', page)
    assert words in compare([path], tmp_path / "compare.html")[0].read_text(encoding="utf-8")


def test_few_edits_before_a_collapse_show_in_the_intervals(tmp_path: Path) -> None:
    judged = Judged.of(make_run(tmp_path / "run", n=100, collapse=14, decay=0.0))
    assert judged.verdict.collapse is not None
    made = table3([("rome", judged.run, judged.verdict)])
    for row in ("efficacy", "locality", "forgetting"):
        cell = made.rows[row][0]
        assert cell.low <= cell.value <= cell.high
        assert cell.high - cell.low > 0.15, row


def test_tasks_without_f1_are_in_key_figures_and_overview(tmp_path: Path) -> None:
    """What lm-eval measures has accuracies; steps at which not all tasks were asked are no part of the mean."""
    path = make_run(tmp_path / "run", n=40, collapse=None)
    judged = Judged.of(path)
    main = sorted(main_figures(judged.curves["metric"].unique()).values())
    before = mean_of_tasks(judged.curves)
    steps = judged.curves.filter(pl.col("metric") == main[0])["step"].to_list()
    more = judged.curves.filter(pl.col("metric") == main[0], pl.col("step").is_in(steps[::2]))
    more = more.with_columns(metric=pl.lit("downstream.mmlu.accuracy"), value=pl.lit(0.25))
    curves = pl.concat([judged.curves, more])
    found = mean_of_tasks(curves)
    assert found["step"].to_list() == steps[::2]
    assert found["tasks"].to_list() == [len(main) + 1] * len(found)
    assert found["value"][0] == pytest.approx((before["value"][0] * len(main) + 0.25) / (len(main) + 1))
    label = {key.label: key for key in keys(judged.verdict, curves)}["Downstream F1 or accuracy"]
    assert label.detail.startswith(f"mean of {len(main) + 1} tasks")
    shown = overview(curves).frame.filter(pl.col("series") == "downstream, mean")
    assert shown["value"].to_list() == found["value"].to_list()
    alone = curves.filter(~pl.col("metric").is_in(main))
    assert "Downstream accuracy" in {key.label for key in keys(judged.verdict, alone)}


def added(curves: pl.DataFrame, *rows: tuple[int, str, float, int, int]) -> pl.DataFrame:
    """Return curves with further rows: step, metric, value, n, missing."""
    nan = math.nan
    more = [(step, metric, 1, value, nan, nan, n, missing) for step, metric, value, n, missing in rows]
    return pl.concat([curves, pl.DataFrame(more, schema=SUMMARY_COLUMNS, orient="row")])


def test_a_chance_line_is_the_tasks_own(tmp_path: Path) -> None:
    judged = Judged.of(make_run(tmp_path / "run", n=20, collapse=None))
    names = sorted(tasks(judged.run))

    def lines(levels: dict[str, float]) -> tuple[float | None, float | None]:
        curves = added(judged.curves, *((0, f"downstream.{name}.chance", v, 1, 0) for name, v in levels.items()))
        drawn = {f.name: f.chance for f in figures(judged.run, curves, judged.verdict)}
        laid = {f.name: f.chance for f in comparison([replace(judged, curves=curves)], ["rome"])}
        return drawn["downstream"], laid[f"downstream-{names[0]}-f1"]

    assert lines({}) == (None, None)  # older runs did not record it
    assert lines(dict.fromkeys(names, 0.5)) == (0.5, 0.5)
    assert lines({**dict.fromkeys(names, 0.5), names[0]: 0.25}) == (None, 0.25)
    assert lines({names[0]: 0.0}) == (None, None)  # a free answer is not guessed


def test_what_the_model_writes_is_among_the_key_figures(tmp_path: Path) -> None:
    judged = Judged.of(make_run(tmp_path / "run", n=20, collapse=None))
    nan = math.nan
    measured = [("base", 0, 6.0, 4, 0), ("now", 1, 5.0, 1, 0), ("now", 2, nan, 1, 3), ("end", 20, nan, 4, 8)]
    curves = added(judged.curves, *((step, f"fluency@{when}", v, n, gone) for when, step, v, n, gone in measured))
    found = {key.label: key for key in keys(judged.verdict, curves)}
    assert found["Fluency, bits"].value == "5 (3 missing)"
    assert found["Fluency, bits"].detail == "right after each edit; 6 before any, dead (8 missing) at the end"
    assert "Consistency" not in found


def test_answers_that_are_none_stand_beside_the_score_of_the_tasks(tmp_path: Path) -> None:
    for collapse, said in ((None, False), (10, True)):
        judged = Judged.of(make_run(tmp_path / str(collapse), n=20, collapse=collapse))
        (key,) = (key for key in keys(judged.verdict, judged.curves) if key.label.startswith("Downstream"))
        assert key.detail.endswith("at the end 70 % of the answers are invalid") is said


def test_the_unedited_model_alone_is_no_loss(tmp_path: Path) -> None:
    judged = Judged.of(make_run(tmp_path / "run", n=100, collapse=5))
    made = table3([("rome", judged.run, judged.verdict)])
    assert made.rows["loss of downstream before collapse"][0].word == "not measured"
    assert made.rows["duration before collapse"][0].value == 5
