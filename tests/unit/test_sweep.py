"""Grids, shards, the index and the table: which runs a sweep makes, where they are, and what became of each."""

import json
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from errata.cli import app
from errata.errors import ConfigError, ErrataError, RunError
from errata.studies.engine import Job, Outcome, settled
from errata.studies.grid import Cell, cells, read_grid, shard_of
from errata.studies.recipe import load_recipe
from errata.studies.run import run
from errata.studies.sweep import sweep
from tiny import tiny_facts, tiny_model


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict[str, object]:
    """A recipe over a random GPT-2 in a directory: six edits, fine-tuned in two steps each."""
    root = tmp_path_factory.mktemp("sweep")
    model = tiny_model("gpt2")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    facts = [json.dumps(f.to_mapping()) for f in tiny_facts(6)]
    (root / "facts.jsonl").write_text("\n".join(facts) + "\n", encoding="utf-8")
    return {
        "model": {"name": str(root / "model")},
        "method": {"name": "ft-c", "steps": 2},
        "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl")},
        "probes": [{"name": "proficiency"}, {"name": "forgetting", "every": 3}],
        "run": {"name": "r", "checkpoint_every": 3},
    }


def in_process(jobs: Sequence[Job]) -> list[Outcome]:
    """Make runs as the engines do, but here."""
    outcomes = []
    for job, known in zip(jobs, settled(jobs), strict=True):
        try:
            if known is None:
                run(job.recipe, job.out)
            outcomes.append(known or Outcome(job, "done"))
        except ErrataError as e:
            outcomes.append(Outcome(job, "failed", str(e)))
    return outcomes


def settings(found: Sequence[Cell]) -> list[tuple[object, ...]]:
    return [tuple(cell.axes.values()) for cell in found]


def test_a_grid_is_every_combination_the_last_key_fastest(content) -> None:
    grid = read_grid(["method.layers=[0, 1],[2]", "edits.seed=0,1"])
    found = cells({**content, "method": {"name": "memit"}}, ["edits.n=4"], grid)
    assert settings(found) == [([0, 1], 0), ([0, 1], 1), ([2], 0), ([2], 1)]
    assert [cell.recipe.method.settings["layers"] for cell in found] == [[0, 1], [0, 1], [2], [2]]
    assert [(cell.recipe.edits.seed, cell.recipe.edits.n) for cell in found] == [(0, 4), (1, 4)] * 2


def test_a_method_of_the_grid_keeps_the_settings_of_overrides_and_of_other_keys(content) -> None:
    grid = read_grid(["method.layer=0,1", "method.name=ft-c,rome"])
    found = cells(content, ["method.value.steps=5"], grid)
    assert [(c.recipe.method.name, c.recipe.method.settings["layer"]) for c in found] == [
        ("ft-c", 0),
        ("rome", 0),
        ("ft-c", 1),
        ("rome", 1),
    ]
    assert all(cell.recipe.method.settings["value"] == {"steps": 5} for cell in found)
    # The recipe's own settings are those of its own method.
    assert ["steps" in cell.recipe.method.settings for cell in found] == [True, False] * 2


def test_a_whole_section_may_be_an_axis_so_that_settings_vary_together(content) -> None:
    found = cells(content, [], read_grid(["method={name: rome, layer: 0},{name: memit, layers: [0, 1]}"]))
    assert [cell.recipe.method.settings for cell in found] == [{"layer": 0}, {"layers": [0, 1]}]


def test_a_probe_of_the_list_is_named_in_a_key(content) -> None:
    found = cells(content, [], read_grid(["probes.forgetting.every=1,2"]))
    assert [cell.recipe.probes[1].settings for cell in found] == [{"every": 1}, {"every": 2}]
    with pytest.raises(ConfigError, match="no 'forgeting' in the recipe's list; it has proficiency, forgetting"):
        cells(content, [], {"probes.forgeting.every": [1]})
    with pytest.raises(ConfigError, match=r"probes\.NAME\.SETTING"):
        cells({k: v for k, v in content.items() if k != "probes"}, [], {"probes.forgetting.every": [1]})


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["edits.seed"], "write key=v1,v2"),
        (["edits.seed=[1"], "not the items of a YAML list"),
        (["edits.seed="], "there is no value"),
        (["edits.seed=1,2,1"], "a value stands twice"),
        (["edits.seed=1", "edits.seed=2"], "the key stands twice"),
    ],
)
def test_what_is_no_grid_is_said(texts, said) -> None:
    with pytest.raises(ConfigError, match=said):
        read_grid(texts)


def test_a_key_that_no_recipe_has_is_named_before_anything_runs(content) -> None:
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        cells(content, [], {"edits.sead": [1]})
    with pytest.raises(ConfigError, match="a key of the grid too"):
        cells(content, ["edits.seed=1"], {"edits.seed": [1]})


def test_directories_say_what_differs_and_change_with_what_matters(content) -> None:
    grid = {"method.layer": [0, 1], "model.name": [content["model"]["name"]]}
    names = [cell.directory for cell in cells(content, [], grid)]
    assert [name.rpartition("_")[0] for name in names] == ["layer-0_model", "layer-1_model"]
    assert names == [cell.directory for cell in cells(content, ["run.name=other", "report.title=T"], grid)]
    assert not {*names} & {cell.directory for cell in cells(content, ["edits.n=5"], grid)}
    assert [cell.recipe.run.name for cell in cells(content, [], grid)] == ["layer-0_model", "layer-1_model"]


def test_shards_are_disjoint_and_complete(content) -> None:
    whole = cells(content, [], {"edits.seed": list(range(7))})
    shards = [shard_of(whole, f"{i}/3") for i in (1, 2, 3)]
    assert [len(s) for s in shards] == [3, 2, 2]
    assert sorted(c.directory for s in shards for c in s) == sorted(c.directory for c in whole)
    for wrong in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(ConfigError, match="write i/n"):
            shard_of(whole, wrong)


def test_a_sweep_in_shards_with_a_failing_run(content, tmp_path) -> None:
    whole = cells(content, [], read_grid(["method.layer=0,9", "edits.batch_size=1,3"]))
    first = sweep(whole, shard_of(whole, "1/2"), tmp_path, in_process)
    assert first.statuses == ("finished", "not begun", "failed", "not begun")
    found = sweep(whole, shard_of(whole, "2/2"), tmp_path, in_process)
    assert found.statuses == ("finished", "finished", "failed", "failed")  # the other shard's failure is not forgotten
    assert "layer 9 is out of range" in found.messages[3]
    # All again: what is finished is kept, what failed is tried again, and the table does not change.
    before = [(tmp_path / cell.directory / "journal.jsonl").read_bytes() for cell in whole[:2]]
    again = sweep(whole, whole, tmp_path, in_process)
    assert again.statuses == ("finished", "finished", "failed", "failed")
    assert [(tmp_path / cell.directory / "journal.jsonl").read_bytes() for cell in whole[:2]] == before
    assert again.figures.values == found.figures.values
    frame = again.frame()
    assert frame["method.layer"].to_list() == ["0", "0", "9", "9"]
    assert 0 <= frame["efficacy"][0] <= 1
    assert frame["efficacy"].null_count() == 2
    assert json.loads((tmp_path / "summary.json").read_text()) == again.as_json()
    assert again.markdown().startswith("| layer | batch_size | status | efficacy |")
    # A grid of some of them makes these, and the tables go on to hold all.
    part = cells(content, [], read_grid(["method.layer=0", "edits.batch_size=3"]))
    assert sweep(part, part, tmp_path, in_process).as_json() == again.as_json()
    assert json.loads((tmp_path / "summary.json").read_text()) == again.as_json()
    # What succeeds at last has not failed.
    sweep(whole, whole, tmp_path, lambda jobs: [Outcome(job, "done") for job in jobs])
    assert not [*tmp_path.glob("*.failed")]


def test_an_index_may_grow_but_not_lose_runs(content, tmp_path) -> None:
    def recorded(seeds: Sequence[int]) -> int:
        whole = cells(content, [], {"edits.seed": list(seeds)})
        sweep(whole, [], tmp_path, lambda jobs: [])
        return len(json.loads((tmp_path / "sweep.json").read_text())["runs"])

    assert [recorded((0, 1)), recorded((0, 1, 2)), recorded((1,))] == [2, 3, 3]
    with pytest.raises(RunError, match="holds another sweep: its seed-0"):
        recorded((1, 2, 3))


def test_the_engine_keeps_what_is_finished_and_refuses_another_run(content, tmp_path) -> None:
    job = Job(load_recipe(content), tmp_path / "run")
    assert settled([job]) == [None]
    run(job.recipe, job.out)
    assert [o.status for o in settled([job]) if o] == ["kept"]
    # The default, written out, is no difference; another value is, and settings the run does not know are not.
    assert settled([Job(load_recipe(content, ["method.layer=1"]), job.out)])[0].status == "kept"
    refused = settled([Job(load_recipe(content, ["method.steps=3"]), job.out)])[0]
    assert (refused.status, "method.steps is 2 there, and 3 now" in refused.message) == ("failed", True)
    info = json.loads((job.out / "run.json").read_text())
    del info["config"]["method"]["layer"]
    (job.out / "run.json").write_text(json.dumps(info))
    assert settled([job])[0].status == "kept"
    assert (
        "method.layer is not set there" in settled([Job(load_recipe(content, ["method.layer=1"]), job.out)])[0].message
    )
    with pytest.raises(ConfigError, match="two runs are to be written"):
        settled([job, Job(job.recipe, job.out / ".." / "run")])


def test_one_process_a_run_and_the_exit_status_says_what_failed(content, tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(content), encoding="utf-8")
    arguments = ["sweep", str(recipe), "--grid", "method.layer=0,9", "--out", str(tmp_path / "s"), "--json"]
    planned = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert (planned.exit_code, [p["status"] for p in json.loads(planned.stdout)]) == (1, ["not begun"] * 2)
    assert not (tmp_path / "s").exists()
    done = CliRunner().invoke(app, [*arguments, "--processes", "2"])
    assert done.exit_code == 1
    assert [line["status"] for line in json.loads(done.stdout)] == ["finished", "failed"]
    assert "layer 9 is out of range" in done.stderr
    here = run(cells(content, [], {"method.layer": [0, 9]})[0].recipe, tmp_path / "here")
    made = next((tmp_path / "s").glob("layer-0_*"))
    parts = [file.relative_to(here) for file in sorted(here.rglob("part-*.parquet"))]
    assert parts
    assert [(made / part).read_bytes() for part in parts] == [(here / part).read_bytes() for part in parts]
