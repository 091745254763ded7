"""What is said of a model by name, and when few edits take on one that nobody has settled settings for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from typer.testing import CliRunner

from errata.analysis.advice import few_taken
from errata.analysis.frames import RunFrames, load_run
from errata.cli import app
from errata.errors import ConfigError
from fake_run import make_run


def on(run: RunFrames, model: str, **method: object) -> RunFrames:
    config = {**run.info["config"], "model": {"name": model}, "method": {"name": "memit", **method}}
    return replace(run, info={**run.info, "config": config})


def test_few_edits_taken_on_a_model_without_settings_name_what_to_look_at(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", n=12, collapse=None)
    run = load_run(path)
    statistics = {"source": "wikipedia", "samples": 1000}
    settings: dict[str, Any] = {"layers": [3, 4], "covariance_weight": 1.0, "statistics": statistics}
    assert few_taken(on(run, "gpt2", **settings)) == []  # they all took
    file = next((path / "probes" / "proficiency").glob("*.parquet"))
    rows = pl.read_parquet(file)
    taken = pl.col("metric") == "efficacy.success@now"
    rows.with_columns(value=pl.when(taken).then(0.0).otherwise("value")).write_parquet(file)
    (remark,) = few_taken(on(run, "gpt2", **settings))
    assert remark.startswith("Only 0% of 12 edits took with memit. Look at the layers 3, 4, which may not be where")
    assert "C, estimated from 1,000 texts where 100,000 are usual" in remark
    assert "errata models FAMILY" in remark
    assert few_taken(run) == []  # a lab model's settings were found on it
    (remark,) = few_taken(on(run, "gpt2", layer=5, lr=1.0, statistics=statistics))
    assert "Look at the layer 5, which" in remark
    assert "texts" not in remark  # what reads texts for something else than C


def shown(*words: str) -> Any:
    result = CliRunner().invoke(app, ["models", *words])
    return result.exception or result.output


def test_a_model_or_family_is_shown_with_what_is_settled_for_it() -> None:
    (llama,) = json.loads(shown("llama", "--json"))
    assert llama["mlp_out"] == "model.layers.N.mlp.down_proj"
    assert {"llama-2-7b", "llama-3-8b"} <= llama["published_settings"].keys()
    (lab,) = json.loads(shown("lab-s", "--json"))
    assert {"memit", "wise"} <= set(lab["settings_of_its_own"])
    assert {"ke", "mend"} <= set(lab["settings_of_a_training"])
    assert not set(lab["settings_of_a_training"]) & set(lab["defaults"])
    assert not set(lab["settings_of_its_own"]) & set(lab["defaults"])
    assert "published settings      none" in shown("gemma")
    assert isinstance(shown("lama"), ConfigError)
    assert "Did you mean 'llama'" in str(shown("lama"))
    assert {r["name"] for r in json.loads(shown("--json"))} >= {"lab-s", "gpt2"}
