"""Claims of a paper: verdicts by rule, figures from rows with a known truth, rows made alone, and shipped recipes."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from errata.analysis.screening import Share
from errata.cli import app
from errata.errors import ConfigError, EditDataError, RunError
from errata.models import outline
from errata.studies import plan as planning
from errata.studies.recipe import load_recipe
from errata.studies.reproduce import collapse_measures as fallen
from errata.studies.reproduce import gupta2024
from errata.studies.reproduce import make as making
from errata.studies.reproduce import measures as m
from errata.studies.reproduce.claims import Claim, compared
from errata.studies.reproduce.estimates import Estimate, counted, paired, pooled
from errata.studies.reproduce.first_edits import disables_more, disabling, distance_ratio
from errata.studies.reproduce.gupta2024_table3 import QUOTED, TABLE3
from errata.studies.reproduce.page import Page
from errata.studies.reproduce.papers import reproduction
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size, Training, matching
from errata.studies.run import run
from errata.studies.screen import ScreenStore
from errata.training.job import Job
from fake_run import make_run

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
FIRST = {"gupta2024": ("ft-c", "rome", "memit", "mend"), "lin2024": ("mend", "rome", "memit", "grace")}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.75, 0.9, "holds"),
        (0.5, 0.7, "does not hold"),
        (0.7, 0.9, "not testable here"),
        (math.nan, math.nan, "not testable here"),
    ],
)
def test_a_verdict_follows_from_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert compared(0.8, low, high, "", at_least=0.75).verdict == verdict


def test_four_runs_decide_only_when_they_agree() -> None:
    assert compared(*counted(4, 4), "", at_least=0.5).verdict == "holds"
    assert compared(*counted(3, 4), "", at_least=0.5).verdict == "not testable here"
    assert compared(*counted(0, 4), "", at_least=0.5).verdict == "does not hold"


def test_runs_that_differ_widen_an_interval() -> None:
    same = pooled([np.repeat([0.0, 1.0], 50)] * 4, np.random.default_rng(0))
    apart = pooled([np.zeros(100), np.zeros(100), np.ones(100), np.ones(100)], np.random.default_rng(0))
    assert same.value == apart.value == 0.5
    assert apart.high - apart.low > 3 * (same.high - same.low)
    missing = pooled([np.array([1.0, math.nan]), np.array([math.nan])], np.random.default_rng(0))
    assert missing.value == 1.0


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    """Two kinds of three samples of the same facts: one collapses early and late, the other not at all."""
    root = tmp_path_factory.mktemp("runs")
    places = {}
    for sample, collapse in enumerate((30, 50, 75)):
        for kind, at, decay in (("breaks", collapse, 0.004), ("lasts", None, 0.0)):
            places[f"{kind}/{sample}"] = root / kind / str(sample)
            make_run(places[f"{kind}/{sample}"], n=100, collapse=at, decay=decay, every=5, every_part=100, seed=sample)
    return Results(places)


def test_collapses_and_their_order_are_found(results: Results) -> None:
    found = fallen.collapses("breaks", expected=True, by=100, rule="")(results)
    assert found.value == 1.0
    assert "30, 50, 75" in found.text
    assert fallen.collapses("lasts", expected=True, by=100, rule="")(results).value == 0.0
    late = fallen.collapses("breaks", expected=True, by=50, rule="")(results)
    assert (late.value, "75" in late.text) == (pytest.approx(2 / 3), False)  # what breaks at 75 has not by 50
    longer = fallen.outlasts("lasts", "breaks", rule="")(results)
    assert longer.value == 1.0
    assert fallen.outlasts("lasts", "lasts", rule="")(results).verdict == "not testable here"
    vary = fallen.steps_vary("breaks", rule="")(results)
    assert "edits 30 to 75" in vary.text
    assert vary.verdict == "not testable here"  # of three runs nothing can be said


def test_what_the_paper_sees_after_more_edits_is_not_refuted_by_fewer(results: Results) -> None:
    short = fallen.collapses("lasts", expected=True, by=101, rule="")(results)
    assert (short.low, short.high) == (0.0, 1.0)
    assert fallen.collapses("lasts", expected=False, by=1000, rule="")(results).verdict == "not testable here"
    kept = m.forgotten_share("lasts", at_least=0.5, rule="", after=1000)
    assert kept(results).verdict == "not testable here"
    # What they cost grows with the edits: enough by now is enough, and little by now says nothing.
    most = m.forgotten_share("lasts", at_least=-0.5, rule="", after=1000)
    assert most(results).verdict == "holds"
    assert m.forgotten_share("lasts", at_most=0.5, rule="", after=1000)(results).verdict == "not testable here"
    assert m.forgotten_share("lasts", at_most=-0.5, rule="", after=1000)(results).verdict == "does not hold"
    assert m.forgotten_share("lasts", at_least=0.5, rule="", after=100)(results).verdict == "does not hold"
    assert m.tasks_lost("lasts", at_least=0.5, rule="", after=1000)(results).verdict == "not testable here"
    assert fallen.phases_seen("lasts", rule="")(results).verdict == "not testable here"
    assert fallen.phases_seen("breaks", rule="")(results).text.partition(" (")[0].endswith("of 3 collapses")
    assert m.forgets_more("lasts", "lasts", rule="")(results).verdict == "not testable here"


@pytest.mark.parametrize(
    "measure",
    [
        lambda kind: m.proficiency(kind, "neighborhood.success@now", rule=""),
        lambda kind: m.forgotten_share(kind, rule="", at_end=True, after=100),
        lambda kind: m.differs(kind, "lasts", "neighborhood.success@now", rule=""),
        lambda kind: m.forgets_more(kind, "lasts", rule=""),
    ],
)
def test_the_same_facts_in_more_samples_do_not_narrow_an_interval(results: Results, measure) -> None:
    once, other = results.paths["breaks/0"], results.paths["lasts/0"]
    copies = {f"copied/{k}": once for k in range(4)} | {f"lasts/{k}": other for k in range(4)}
    many = measure("copied")(Results(copies))
    one = measure("copied")(Results({"copied/0": once, "lasts/0": other}))
    assert many.value == one.value
    assert many.high - many.low > 0.9 * (one.high - one.low)


class Screened:
    """A screen of so many facts, so many of which disable."""

    def __init__(self, disabling: int, of: int) -> None:
        verdicts = ["disabling"] * disabling + ["ordinary"] * (of - disabling)
        self.judged = pl.DataFrame({"verdict": verdicts, "distance": [1.0 + v for v in range(of)]})

    def screening(self, name: str) -> "Screened":
        return self

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(0)

    def share(self, verdict: str) -> Share:
        return Share(len(self.judged.filter(pl.col("verdict") == verdict)), len(self.judged))


@pytest.mark.parametrize(
    ("count", "of", "some", "none"),
    [
        (0, 50, "not testable here", "not testable here"),
        (0, 2000, "does not hold", "holds"),
        (1, 50, "holds", "does not hold"),
    ],
)
def test_no_disabling_edit_among_a_few_says_nothing_either_way(count: int, of: int, some: str, none: str) -> None:
    screen = cast(Results, Screened(count, of))
    assert disabling("rome", expected=True)(screen).verdict == some
    assert disabling("rome", expected=False)(screen).verdict == none


def test_what_disables_is_compared_on_the_same_facts() -> None:
    def screened(disabling: set[int], facts: range) -> object:
        verdicts = ["disabling" if k in disabling else "ordinary" for k in facts]
        return SimpleNamespace(judged=pl.DataFrame({"id": [str(k) for k in facts], "verdict": verdicts}))

    # Fact 30 and on are not in both screens.
    screens = {"first/a": screened({*range(10), 35}, range(40)), "first/b": screened({0}, range(30))}
    both = cast(Results, SimpleNamespace(screening=screens.__getitem__))
    found = disables_more("a", "b", rule="")(both)
    assert found.value == pytest.approx(9 / 30)
    assert found.text.startswith("10 against 1 of the same 30 facts")
    assert found.verdict == "holds"
    assert disables_more("b", "a", rule="")(both).verdict == "does not hold"
    assert disables_more("b", "b", rule="")(both).verdict == "not testable here"


def test_a_few_disabling_edits_say_nothing_of_how_far_they_go() -> None:
    assert distance_ratio("rome", at_least=1, rule="")(cast(Results, Screened(5, 50))).verdict == "not testable here"
    # Those that disable come first in this screen, and move the weights least.
    assert distance_ratio("rome", at_least=1, rule="")(cast(Results, Screened(6, 50))).verdict == "does not hold"


def test_edits_that_do_not_disable_are_no_measure_of_those_that_do() -> None:
    found = distance_ratio("rome", at_least=100, rule="")(cast(Results, Screened(0, 50)))
    assert found.verdict == "not testable here"
    assert math.isnan(found.value)


def test_the_papers_own_figures_get_the_papers_words(monkeypatch) -> None:
    claims = {claim.id: claim for claim in TABLE3}
    for name, figures in QUOTED.items():
        value = float(np.mean(figures))
        monkeypatch.setattr(m, "pooled", lambda *_, value=value: Estimate(value, value, value))
        monkeypatch.setattr(m, "mean_of_bounded", lambda *_, value=value: Estimate(value, value, value))
        monkeypatch.setattr(m, "_too_short", lambda *_: "")
        assert claims[name].measure(Results({})).verdict == "holds", name


def test_edits_that_all_agree_keep_a_width() -> None:
    alike = [(np.ones(40), np.ones(40))] * 4
    found = paired(alike, np.random.default_rng(0))
    assert found.low < 0 == found.value < found.high


def test_a_run_that_is_missing_is_told_and_a_screen_of_other_settings_is_not_taken(tmp_path: Path) -> None:
    paper = reproduction("gupta2024")
    partial = Results({"rome/0": tmp_path}, asked=["rome/0", "rome/1", "mend/0"])
    assert partial.missing(("rome/*",)) == ["rome/1"]
    claim = Claim("x", "", "", "", lambda _: compared(1, 1, 1, "", rule="r"), ("rome/*",))
    lost = replace(claim, needs=("mend/*",))
    rows = Page.of(paper, Size("lab-s"), [claim, lost, replace(claim, counted=False)], partial, "errata").rows
    assert rows[0].finding.note.startswith("r; of 2 runs 1; not there: rome/1; one run of a kind")
    assert rows[1].finding.verdict == "not made"
    tally = Page(paper, (), rows, (), "errata").tally
    assert tally.startswith(
        "2 claims: 1 hold, 0 do not, 0 cannot be tested here, the runs of 1 were not made. 1 further"
    )
    recipe = paper.work(Size("lab-s", 2, 1), tmp_path).screens["first/rome"]
    store = ScreenStore(tmp_path / "screen")
    for number in range(3):
        store.part(number).parent.mkdir(parents=True, exist_ok=True)
        store.part(number).touch()
    store.path.joinpath("screen.json").write_text(json.dumps({"config": {"method": {"name": "memit"}}}))
    assert not making.screened(store.path, recipe)


def test_another_models_training_is_not_resumed(tmp_path: Path) -> None:
    begun = Job("mend", "lab-m", skip=2, settings=["steps=3"])
    (tmp_path / "training.json").write_text(json.dumps(asdict(begun)))
    (tmp_path / "resume.safetensors").touch()
    assert making._begun_alike(Training("mend", "lab-m", 2, ("steps=3",)), tmp_path)
    with pytest.raises(RunError, match="lab-s"):
        making._begun_alike(Training("mend", "lab-s", 2, ("steps=3",)), tmp_path)


def test_what_is_forgotten_and_lost_is_told_apart_by_kind(results: Results) -> None:
    more = m.forgets_more("breaks", "lasts", rule="")(results)
    assert more.verdict == "holds"
    assert m.forgets_more("lasts", "breaks", rule="")(results).verdict == "does not hold"
    at_end = m.forgotten_share("breaks", at_least=0.5, rule="", at_end=True, after=100)(results)
    before = m.forgotten_share("breaks", at_least=0.5, rule="", after=100)(results)
    assert at_end.verdict == "holds"
    assert before.value < at_end.value


def test_a_spike_at_the_collapse_is_no_chance_and_a_step_elsewhere_is(results: Results) -> None:
    spike = fallen.spikes_at_collapse("breaks", rule="")(results)
    assert spike.verdict == "holds"
    assert spike.value > 10
    assert fallen.spikes_at_collapse("lasts", rule="")(results).verdict == "not testable here"
    two = Results({name: place for name, place in results.paths.items() if name in ("breaks/1", "breaks/2")})
    assert fallen.spikes_at_collapse("breaks", rule="")(two).verdict == "not testable here"


def test_a_collapsed_models_full_stops_are_a_repetition() -> None:
    rows = pl.DataFrame({"value": [math.nan, 0.9, math.nan], "text": [".....", "a b", None]})
    assert fallen._entropies(rows)[:2].tolist() == [0.0, 0.9]
    assert math.isnan(fallen._entropies(rows)[2])  # no text at all


def test_every_claim_has_its_runs_and_a_name_of_its_own(tmp_path: Path) -> None:
    paper = reproduction("gupta2024")
    work = paper.work(Size("lab-s"), tmp_path)
    assert len({claim.id for claim in paper.claims}) == len(paper.claims)
    for claim in paper.claims:
        assert matching(work.runs, [claim]) or matching(work.screens, [claim]), claim.id
    cells = {claim.cell for claim in paper.claims if claim.cell}
    columns = {"FT-C", "ROME", "ROME without C", "MEMIT", "MEND"}
    assert cells == {(row, column) for row in {row for row, _ in cells} for column in columns}
    assert len(cells) == 30
    with pytest.raises(ConfigError, match="lab-s has 800 facts for a run"):
        paper.work(Size("lab-s", 801), tmp_path)
    with pytest.raises(ConfigError, match="duration-rome"):
        paper.chosen(["duration"])
    with pytest.raises(ConfigError, match="gupta2024"):
        reproduction("gupta")


def test_a_page_without_runs_says_so_and_escapes_what_models_say(results: Results) -> None:
    paper = reproduction("gupta2024")
    page = Page.of(paper, Size("lab-s"), paper.claims, Results({}), "errata reproduce gupta2024")
    assert {row.finding.verdict for row in page.rows} == {"not made"}
    content = json.loads(page.as_json())
    assert content["claims"][0]["value"] is None
    assert content["claims"][0]["command"] == "errata reproduce gupta2024 --claim efficacy-ft-c"
    assert "holds" not in [row["verdict"] for row in content["claims"]]


def test_one_row_is_made_alone_from_kept_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gupta2024, "ITEMS", 2)
    monkeypatch.setattr(gupta2024, "OTHERS", 4)
    paper = reproduction("gupta2024")
    work = paper.work(Size("lab-s", 2, 1), tmp_path)
    for name, content in work.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    run(work.runs["ft-c/0"], tmp_path / "runs" / "ft-c" / "0")
    asked = ["reproduce", "gupta2024", "--edits", "2", "--samples", "1", "--out", str(tmp_path)]
    made = CliRunner().invoke(app, [*asked, "--claim", "efficacy-ft-c", "--json"])
    assert made.exit_code == 0, made.output
    (row,) = json.loads(made.stdout)["claims"]
    assert row["runs"] == ["ft-c/0"]
    assert row["value"] == 1.0
    assert row["verdict"] == "not testable here"  # two edits say little
    assert row["command"].endswith(f"--edits 2 --samples 1 --out {tmp_path} --claim efficacy-ft-c")
    planned = CliRunner().invoke(app, [*asked, "--claim", "efficacy-ft-c", "--dry-run", "--json"])
    assert json.loads(planned.stdout)["missing"] == []
    afresh = [*asked[:-1], str(tmp_path / "new"), "--claim", "efficacy-ft-c", "--dry-run", "--json"]
    assert json.loads(CliRunner().invoke(app, afresh).stdout)["missing"] == ["ft-c/0"]
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def outlines():
    """Each architecture built once: a large model's outline takes a second."""
    made = {}

    def get(name: str, dtype: str = "float32"):
        return made.setdefault((name, dtype), outline(name, dtype=dtype))

    return get


@pytest.mark.parametrize("file", sorted(RECIPES.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_recipe_resolves_and_says_what_it_costs(file: Path, outlines, monkeypatch, tmp_path) -> None:
    def unreachable(edits, model):
        raise EditDataError("no hub here")

    monkeypatch.setattr(planning, "outline", outlines)
    if load_recipe(file).edits.dataset != "lab":
        monkeypatch.setattr(planning, "load_stream", unreachable)
    methods = FIRST.get(file.stem.partition("-")[0], ()) if file.parent.name == "papers" else ()
    for changes in [[], *([f"method.name={name}"] for name in methods)]:
        if file.stem == "own-facts":
            changes = ["model.name=lab-s"]
        if file.stem == "zsre-chat":
            changes = ["edits.prompt_form=raw"]  # the template is the model's own, whose files are not here
        made = planning.plan(load_recipe(file, changes), tmp_path / "run")
        assert made.edits > 0
        assert made.memory_gb > made.parameters * 2e-9  # no weight is smaller than two bytes
        assert made.seconds_per_edit >= 0
        assert not (tmp_path / "run").exists()
    if file.parent.name == "papers":
        assert "cuda" in made.remark
