"""`errata ask` refuses what no answer can follow from before it makes a run, and says what is left to make."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from test_questions import written
from typer.testing import CliRunner

from errata.cli import app
from errata.errors import ConfigError, RunError
from errata.probes.rows import Row
from errata.studies.engine import Job
from errata.studies.plan import plan
from errata.studies.questions import furthest, making
from errata.studies.questions.asked import QUESTIONS
from errata.studies.recipe import Recipe
from errata.studies.reproduce.work import Size
from errata.studies.streams import long


def asked(*words: str) -> Result:
    return CliRunner().invoke(app, ["ask", *words])


def refused(*words: str) -> str:
    done = asked(*words)
    assert isinstance(done.exception, ConfigError), done
    return str(done.exception)


@pytest.fixture(autouse=True)
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*args: object, **kwargs: object) -> object:
        raise AssertionError("a run would have been made")

    for name, question in QUESTIONS.items():
        monkeypatch.setitem(QUESTIONS, name, replace(question, make=make))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("order", "--samples", "1"), "compares at least 2 runs of a kind, and --samples is 1"),
        (("bleeding", "--edits", "10"), "at least 11 edits, and --edits is 10"),
        (("bleeding", "--edits", "5"), "at least 11 edits, and --edits is 5"),
        (("age", "--edits", "39"), "at least 40 edits"),
        (("batches", "--edits", "10"), "at least 11 edits"),
        (("furthest", "--edits", "19"), "at least 20 edits"),
        (("order", "--edits", "101"), "lab-s-small has 100 facts for the runs of `errata ask order`"),
    ],
)
def test_a_size_without_an_answer_is_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for more in ((), ("--dry-run",)):
        assert said in refused(*words, "--out", str(tmp_path), *more)
    assert not list(tmp_path.iterdir())


def test_a_page_that_could_not_be_filled_is_refused_before_the_runs(tmp_path: Path) -> None:
    page, figure = tmp_path / "page.md", tmp_path / "figure.svg"
    page.write_text("# Order\n")
    words = ("order", "--out", str(tmp_path / "runs"))
    assert "no place for what is made" in refused(*words, "--page", str(page))
    assert "is no file" in refused(*words, "--page", str(tmp_path))
    assert "--page is not given" in refused(*words, "--figure", str(figure))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_has_fallen_is_not_still_to_make(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "furthest" / "rome" / "0"
    rows = [Row(step, furthest.FALL.metric, v, prompt_id="p") for step, v in ((0, 1.0), (20, 0.0))]
    written(place, rows, 20)
    (place / "checkpoints" / "step-000020").mkdir(parents=True)
    words = ("furthest", "--samples", "1", "--out", str(tmp_path), "--dry-run", "--json")
    found = json.loads(asked(*words).stdout)
    assert "furthest/rome/0" not in found["missing"]
    assert found["edits"] == furthest.QUESTION.edits * (len(found["runs"]) - 1)
    # One that stands at as many edits and has not fallen goes on.
    for part in (place / "probes").glob("*/*"):
        part.unlink()
    assert "furthest/rome/0" in json.loads(asked(*words).stdout)["missing"]


def test_each_order_has_a_file_of_its_own(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for name, samples in (("order", 4), ("bleeding", 2), ("furthest", 2), ("age", 2)):
        for file, content in QUESTIONS[name].work(Size("lab-s-small", 40, samples), tmp_path).files.items():
            assert files.setdefault(file, content) == content, f"{name} overwrites {file}"
    assert {*files} == {f"orders/{kind}.json" for kind in ("half-0", "half-1", "long-0", "long-1")} | {
        f"orders/same-{k}.json" for k in range(4)
    }
    assert json.loads(files["orders/long-1.json"]) == {"long-1": long("lab-s-small", 1)}


class Deadly(Job):
    """A job that ends the process which receives it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


def test_a_process_that_dies_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"one of 2 processes .* fewer --processes"):
        making._go([Deadly(recipe(), tmp_path / "run")], furthest.FALL, 2, print)


def recipe(**edits: object) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"name": "lab-s-small"},
            "method": {"name": "ft-c"},
            "edits": {"dataset": "lab", "n": 50} | edits,
            "run": {"name": "run"},
        }
    )


def test_a_plan_is_of_the_edits_that_are_to_be_made_now(tmp_path: Path) -> None:
    whole, part = plan(recipe(), tmp_path), plan(recipe(), tmp_path, until=10)
    assert (whole.edits, part.edits) == (50, 10)
    assert part.disk_gb == pytest.approx(whole.disk_gb / 5)
    assert plan(recipe(), tmp_path, until=99).edits == 50
    assert plan(recipe(batch_size=8), tmp_path, until=10).edits == 16  # a batch is made whole
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe().model_dump(mode="json")))
    done = CliRunner().invoke(app, ["run", str(file), "--until", "10", "--dry-run"])
    assert "for 10 edits" in done.stdout
