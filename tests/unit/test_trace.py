"""Causal tracing, where the effect of a restoration is known beforehand."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch
import typer
from typer.testing import CliRunner

from errata.cli import trace as cli
from errata.edits import Fact
from errata.errors import AnalysisError, ConfigError, ModelError
from errata.models.hooks import add_to_outputs, capture
from errata.models.replay import multiplies_bfloat16
from errata.studies.trace import CLASSES, SITES, Trace, estimate, known_facts, trace
from errata.studies.trace_chart import save, text_map
from tiny import FAMILIES, tiny_facts, tiny_model

FACTS = [*tiny_facts(2), Fact("Ada", "These days {} speaks", "Greek", id="short")]


def traced(model, facts=FACTS, seed=0, **chosen) -> Trace:
    return trace(model, facts, torch.Generator().manual_seed(seed), **{"samples": 3, "window": 2, **chosen})


def rows(found: Trace, **where) -> pl.DataFrame:
    return found.rows.filter(*(pl.col(k) == v for k, v in where.items()))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_state_of_all_decides_and_the_last_states_of_others_do_not(family: str) -> None:
    model = tiny_model(family, torch.float64)
    found = traced(model)
    top = rows(found, site="block", layer=model.n_layers - 1)
    decides = top.filter(pl.col("where") == "last")
    assert decides["restored"].to_list() == pytest.approx(decides["clean"].to_list(), abs=1e-8)
    others = top.filter(pl.col("where") != "last")
    assert others["restored"].to_list() == pytest.approx(
        others["corrupted"].to_list(), abs=1e-8
    )  # GPT-J attends in float32
    assert float((found.rows["clean"] - found.rows["corrupted"]).abs().min()) > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_the_corrupted_run_is_the_model_with_noise_on_the_subject_s_embeddings(family: str) -> None:
    model = tiny_model(family, torch.float64)
    fact = FACTS[0]
    found = traced(model, [fact])
    ids, span = model.subject_span("", fact.subject, " was born in")
    embedded = model.module(model.family.embeddings)(torch.tensor([ids[i] for i in span]))
    assert found.noise == pytest.approx(3 * float(embedded.std()), rel=1e-6)
    shift = found.noise * torch.randn(3, len(span), model.hidden_size, generator=torch.Generator().manual_seed(0))

    def corrupt(_ids, output):
        return output.index_add(1, torch.tensor(span), shift.double())

    answer = model.encode_target(fact.target_true)[0]
    with add_to_outputs(model.model, {model.family.embeddings: corrupt}), torch.no_grad():
        expected = model.model(torch.tensor([ids] * 3)).logits[:, -1].softmax(-1)[:, answer].mean()
    assert found.rows["corrupted"][0] == pytest.approx(float(expected), rel=1e-4)


def plainly(model, fact: Fact, noise: float, samples: int, window: int) -> dict[tuple[str, int, int], float]:
    """Restore one place after the other in whole forward passes, and read the whole softmax."""
    before, after = fact.prompt.split("{}")
    ids, span = model.subject_span(before, fact.subject, after)
    shift = noise * torch.randn(samples, len(span), model.hidden_size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([ids])
    parts = {"block": "", "mlp": f".{model.family.mlp}", "attention": f".{model.family.attention}"}

    def path(site: str, layer: int) -> str:
        return model.block_path(layer) + parts[site]

    every = [path(site, layer) for site in SITES for layer in range(model.n_layers)]
    with torch.no_grad(), capture(model.model, every, stop=False) as clean:
        model.model(tokens)
    answer, found = model.encode_target(fact.target_true)[0], {}
    for site in SITES:
        for layer in range(model.n_layers):
            low, high = (layer, layer + 1) if site == "block" else (layer - window // 2, layer + (window + 1) // 2)
            for position in range(span[0], len(ids)):

                def mend(path: str, position: int = position):
                    def change(_received, output):
                        mended = output.clone()
                        mended[:, position] = clean[path].output[0, position]
                        return mended

                    return change

                changes = {path(site, k): mend(path(site, k)) for k in range(max(0, low), min(high, model.n_layers))}
                changes[model.family.embeddings] = lambda _ids, out: out.index_add(1, torch.tensor(span), shift.to(out))
                with torch.no_grad(), add_to_outputs(model.model, changes):
                    logits = model.model(tokens.expand(samples, -1), use_cache=False).logits[:, -1]
                found[site, layer, position] = float(logits.double().softmax(-1)[:, answer].mean())
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3_text"])
def test_parts_of_runs_give_what_whole_runs_give(family: str) -> None:
    model = tiny_model(family, torch.float64)
    fact = Fact("Ada", "People walk near the old stone bridges because {} speaks", "French", "Greek", id="long")
    found = traced(model, [fact], batch=20)
    expected = plainly(model, fact, found.noise, samples=3, window=2)
    places = found.rows.select("site", "layer", "position").rows()
    assert set(places) == set(expected)
    assert found.rows["restored"].to_list() == pytest.approx([expected[p] for p in places], rel=1e-9)
    assert float(found.rows["effect"].abs().max()) > 1e-5


def test_matrices_in_bfloat16_move_probabilities_by_their_rounding_alone() -> None:
    model = tiny_model("llama", torch.float32)
    fact = Fact("Ada", "People walk near the old stone bridges because {} speaks", "French", "Greek", id="long")
    whole, halved = (traced(model, [fact], matrices=matrices) for matrices in ("model", "bfloat16"))
    assert halved.rows["clean"].to_list() == whole.rows["clean"].to_list()
    # bfloat16 keeps 8 bits: 2⁻⁸ of a logit of a few units.
    assert halved.rows["restored"].to_list() == pytest.approx(whole.rows["restored"].to_list(), rel=0.1)
    if multiplies_bfloat16("cpu"):
        assert halved.rows["restored"].to_list() != whole.rows["restored"].to_list()


def test_a_model_that_answers_nan_is_not_traced() -> None:
    model = tiny_model("llama")
    (ids,) = model.encode(["Ada Abend was born in"])
    with torch.no_grad():
        model.model.get_input_embeddings().weight[ids[2]] = float("nan")  # of one word of this fact
    with pytest.raises(AnalysisError, match="answers NaN to 'Ada Abend was born in'"):
        traced(model)
    model.parameter(model.mlp_out(1)).data.fill_(float("nan"))
    with pytest.raises(ModelError, match="already answers NaN"):
        traced(model)


def test_a_site_whose_output_is_constant_has_no_effect() -> None:
    model = tiny_model("gpt2", torch.float64)
    for layer in range(model.n_layers):
        model.block(layer).mlp.c_proj.weight.zero_()
    found = traced(model)
    assert float(rows(found, site="mlp")["effect"].abs().max()) < 1e-12
    assert float(rows(found, site="attention")["effect"].abs().max()) > 1e-6


def test_without_noise_every_run_is_the_clean_one() -> None:
    found = traced(tiny_model("llama", torch.float64), noise=0.0)
    assert found.rows["corrupted"].to_list() == pytest.approx(found.rows["clean"].to_list(), abs=1e-12)
    assert float(found.rows["effect"].abs().max()) < 1e-12


def test_a_window_over_all_layers_equals_any_other_that_reaches_as_far() -> None:
    model = tiny_model("gpt_neox", torch.float64)
    wide = rows(traced(model, window=9), site="mlp", position=4)
    by_layer = wide.group_by("fact").agg(pl.col("restored").n_unique())
    assert set(by_layer["restored"]) == {1}
    single, pair = (rows(traced(model, window=w), site="block")["restored"].to_list() for w in (1, 2))
    assert single == pair


def test_batches_seeds_and_repetition() -> None:
    model = tiny_model("gpt_neox", torch.float64)
    whole, cut = traced(model, batch=1000), traced(model, batch=20)
    assert whole.rows["effect"].to_list() == pytest.approx(cut.rows["effect"].to_list(), abs=1e-12)
    assert traced(model, batch=20).rows.equals(cut.rows)
    assert not traced(model, seed=1).rows["effect"].equals(whole.rows["effect"])
    before = torch.random.get_rng_state()
    shares: list[float] = []
    traced(model, progress=lambda done, total: shares.append(done / total))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > len(FACTS)
    assert 0 < estimate(model, FACTS) < 60
    assert torch.equal(torch.random.get_rng_state(), before)


def test_positions_are_classed_and_those_before_the_subject_left_out() -> None:
    model = tiny_model("llama")
    found = traced(model)
    (fact,) = [f for f in FACTS if f.id == "short"]
    ids, span = model.subject_span("These days ", "Ada", " speaks")
    classes = rows(found, fact=fact.id, site="block", layer=0).select("position", "where").rows()
    assert [p for p, _ in classes] == list(range(span[0], len(ids)))
    assert dict(classes)[span[-1]] == "last subject"
    assert dict(classes)[len(ids) - 1] == "last"
    end = traced(model, [Fact("Ada Bell", "The job of {}", "judge", id="end")])
    assert set(end.rows["where"]) == {"first subject", "middle subject", "last subject"}


def test_averages_weigh_facts_alike_and_the_peak_is_their_maximum() -> None:
    found = traced(tiny_model("gpt2"))
    cell = {"site": "mlp", "where": "middle subject", "layer": 1}
    by_hand = [rows(found, fact=f.id, **cell)["effect"].mean() for f in FACTS if rows(found, fact=f.id, **cell).height]
    averages = found.averages()
    (row,) = averages.filter(*(pl.col(k) == v for k, v in cell.items())).to_dicts()
    assert row["effect"] == pytest.approx(sum(by_hand) / len(by_hand))
    assert row["facts"] == len(by_hand)
    at_subject = averages.filter(pl.col("site") == "mlp", pl.col("where") == "last subject").sort("layer")
    assert found.peak() == int(at_subject["effect"].arg_max())


def test_only_known_facts_are_kept_and_none_is_an_error() -> None:
    model = tiny_model("gptj")
    towns = [f for f in tiny_facts(12) if f.relation == "town"]
    with torch.no_grad():
        model.model.lm_head.bias[model.encode_target(towns[1].target_true)[0]] = 1e4
    knows = [f for f in towns if model.encode_target(f.target_true)[0] == model.encode_target(towns[1].target_true)[0]]
    assert known_facts(model, towns, 50) == knows
    assert known_facts(model, towns, 1) == knows[:1]
    with pytest.raises(AnalysisError, match="predicts the true object of none of these 1 facts"):
        known_facts(model, [next(f for f in towns if f not in knows)], 5)
    with pytest.raises(AnalysisError, match="no fact to trace"):
        traced(model, [])
    with pytest.raises(ConfigError, match="samples=0"):
        traced(model, samples=0)


def test_the_heat_map_in_text_and_in_every_file(tmp_path: Path) -> None:
    found = traced(tiny_model("gpt2"))
    for site in SITES:
        lines = text_map(found, site).splitlines()
        assert len(lines) == 2 + len(CLASSES)
        assert lines[1].split() == ["L0", "L1", "L2", "L3"]
        assert "█" in "".join(lines)
    for ending in ("html", "svg", "csv", "parquet"):
        save(found, tmp_path / "deep" / f"trace.{ending}")
    assert "<svg" in (tmp_path / "deep" / "trace.svg").read_text()
    assert "last subject" in (tmp_path / "deep" / "trace.html").read_text()
    assert pl.read_parquet(tmp_path / "deep" / "trace.parquet").equals(found.rows)
    with pytest.raises(ConfigError, match=r"\.html, \.svg, \.csv or \.parquet"):
        save(found, tmp_path / "trace.pdf")


def test_the_command_prints_a_map_and_json(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(json.dumps(f.to_mapping()) for f in FACTS))
    app = typer.Typer()
    app.command()(cli.trace)
    common = ["--model", str(tmp_path / "model"), "--facts", str(file), "--all", "-n", "2", "--samples", "2"]
    shown = CliRunner().invoke(app, [*common, "--out", str(tmp_path / "t.csv")], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "2 facts, P(object)" in shown.stdout
    assert "feed-forward peak at the subject's last token: layer" in shown.stdout
    record = json.loads(CliRunner().invoke(app, [*common, "--json"], catch_exceptions=False).stdout)
    assert record["facts"] == 2
    assert set(record["peaks"]) == set(SITES)
    assert {"site", "where", "layer", "effect", "facts"} == set(record["averages"][0])
    assert set(pl.read_csv(tmp_path / "t.csv")["site"]) == set(SITES)
