"""Scores in batches are what the model says of each prompt alone, and what the authors' scorers say."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from errata.edits import Fact
from errata.errors import EditDataError
from errata.models import EditableModel, head, kernels, load
from errata.probes import generation, scoring
from errata.probes.generation import generate
from errata.probes.reading import WORTH_SHARING
from errata.probes.recall import recall_rows
from errata.probes.scoring import score, score_tokens, token_budget
from tiny import FAMILIES, tiny_facts, tiny_model

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the authors' outputs are not beside this checkout")
BREAK: dict[str, Callable[[EditableModel], object]] = {
    "weights": lambda m: m.parameter(m.mlp_out(1)).data.fill_(math.nan),
    "overflow": lambda m: m.parameter(m.mlp_out(1)).data.fill_(3e38),
}


def pairs() -> list[tuple[str, str]]:
    """Prompts of many lengths, objects of one token and of several, one prompt twice."""
    facts = tiny_facts(12)
    prompts = [f.text for f in facts] + [f"Because {f.paraphrase_prompts[1]}" for f in facts]
    objects = [f.target_new for f in facts] + [
        "water",
        "each",
        "old trees near water",
        *(f.target_true for f in facts[3:]),
    ]
    return [*zip(prompts, objects, strict=True), (prompts[0], "Quito")]


def alone(model: EditableModel, prompt: str, wanted: str) -> tuple[float, float]:
    """The plain definition: one forward without padding, all logits, the object's tokens read off."""
    start, target = model.encode([prompt])[0], model.encode_target(wanted)
    logits = model.model(input_ids=torch.tensor([start + target])).logits[0].double()
    ahead = logits[len(start) - 1 : -1]
    logp = ahead.log_softmax(-1)[range(len(target)), target].mean()
    return float(logp), float(ahead.argmax(-1).tolist() == target)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_batched_scores_equal_scores_one_by_one(family: str, dtype: torch.dtype, within: float) -> None:
    model = tiny_model(family, dtype)
    assert {len(model.encode_target(wanted)) for _, wanted in pairs()} >= {1, 3, 4}
    for (prompt, wanted), found in zip(pairs(), score(model, pairs()), strict=True):
        logp, exact = alone(model, prompt, wanted)
        assert found.logp == pytest.approx(logp, abs=within)
        assert found.exact == exact


def test_budgets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", torch.float64)
    usual = score(model, pairs())
    monkeypatch.setattr(scoring, "token_budget", lambda _model: 30)
    monkeypatch.setattr(head, "LOGITS", 2000)
    for a, b in zip(usual, score(model, pairs()), strict=True):
        assert a.logp == pytest.approx(b.logp, abs=1e-12)
        assert a.exact == b.exact
    assert score(model, pairs()) == score(model, pairs())


def test_the_budget_of_tokens_falls_with_the_width_on_a_processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, budgets = tiny_model("gpt2"), {}
    for width in (64, 768, 1600, 8192):
        monkeypatch.setattr(type(model), "hidden_size", width)
        budgets[width] = token_budget(model)
        assert token_budget(model, torch.device("cuda")) == 16384
    assert budgets == {64: 2048, 768: 1024, 1600: 491, 8192: 256}


def test_exact_wants_every_token() -> None:
    model = tiny_model("gpt2")
    (ids,) = model.encode(["Ada Abend was born in"])
    said = list(ids)
    for _ in range(4):
        said.append(int(model.model(input_ids=torch.tensor([said])).logits[0, -1].argmax()))
    other = [*said[:-1], (said[-1] + 1) % 400]
    right, wrong = score_tokens(model, [(said, len(ids)), (other, len(ids))])
    assert right.best.tolist() == [True] * 4
    assert wrong.best.tolist() == [True] * 3 + [False]


def test_half_precision_is_normalised_in_float32() -> None:
    model = tiny_model("gpt2", torch.bfloat16)
    ids = model.encode(["Therefore these old houses stand near"])[0]
    scored = score_tokens(model, [(ids, 1)])[0]
    assert scored.logps.dtype == torch.float32


def test_llama_has_one_beginning_token_and_none_in_objects() -> None:
    model = tiny_model("llama")
    assert model.encode(["Oslo"])[0][0] == 0
    assert 0 not in model.encode_target("Oslo")
    assert score(model, [("", "Oslo")])[0].logp < 0
    with pytest.raises(EditDataError, match="empty prompt"):
        score(tiny_model("gpt2"), [("", "Oslo")])


def test_a_text_longer_than_the_model_is_refused_by_name() -> None:
    with pytest.raises(EditDataError, match=r"tiny-gpt2 has 128 positions.*Shorten it"):
        score(tiny_model("gpt2"), [("water " * 200, "Oslo")])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", BREAK)
def test_what_a_dead_model_answers_is_missing(family: str, how: str) -> None:
    model = tiny_model(family)
    BREAK[how](model)
    # Token 0 is what the argmax of NaN gives.
    dead = score_tokens(model, [([5, 6, 0], 2)])[0]
    assert dead.logps.isnan().all()
    assert all(math.isnan(s.logp) and math.isnan(s.exact) for s in score(model, pairs()))
    rows = list(recall_rows(model, tiny_facts(3), 1, "now"))
    assert len(rows) == 3 * 5 * 2
    assert all(math.isnan(x) for r in rows for x in (r.value, r.logp_new, r.logp_true))
    assert generate(model, ["Ada", "Boris Bell"], 5) == ["", ""]


def test_nothing_to_score() -> None:
    assert score(tiny_model("gpt2"), []) == []
    assert generate(tiny_model("gpt2"), [], 5) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_the_greedy_one_whatever_the_lengths(family: str) -> None:
    model = tiny_model(family, torch.float64)
    prompts = [f.text for f in tiny_facts(6)] + ["Old houses", "Because however these old houses stand near water"]
    # Shared shots, which are read once, before questions of one length and of several; one prompt twice.
    shots = "Old houses stand near water. Children play music under green trees. "
    prompts += [shots + q for q in ("each day", "many people", "bridges fall over rivers", "over bridges", "each day")]
    assert len(model.encode([shots])[0]) > WORTH_SHARING
    for prompt, text in zip(prompts, generate(model, prompts, 6), strict=True):
        ids = model.encode([prompt])[0]
        for _ in range(6):
            best = int(model.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if best == model.tokenizer.eos_token_id:
                break
            ids.append(best)
        assert text == model.tokenizer.decode(ids[len(model.encode([prompt])[0]) :])


@pytest.mark.parametrize("family", FAMILIES)
def test_long_continuations_multiply_by_packed_matrices_and_say_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family)
    prompts = [f.text for f in tiny_facts(6)] + ["Old houses", "Because however these old houses stand near water"]
    rows: list[int] = []
    forth = kernels._Packed.forth
    monkeypatch.setattr(kernels._Packed, "forth", lambda self, x: (rows.append(x.shape[0]), forth(self, x))[1])
    packed = generate(model, prompts, 12)
    steps = 11 * model.n_layers  # the prompts themselves are read by the modules as they are
    assert set(rows) == {len(prompts)}
    assert len(rows) % steps == 0
    assert len(rows) >= 4 * steps
    monkeypatch.setattr(generation, "_PACKING_PAYS", 13)
    rows.clear()
    assert generate(model, prompts, 12) == packed
    assert not rows
    assert not any("forward" in vars(module) for module in model.model.modules())


def test_packed_matrices_are_those_of_the_moment() -> None:
    model, prompts = tiny_model("gpt2"), [f.text for f in tiny_facts(6)]
    before = generate(model, prompts, 12)
    path = model.mlp_out(2)
    model.write(path, -3 * model.weight(path))
    after = generate(model, prompts, 12)
    assert after != before
    fresh = tiny_model("gpt2")
    fresh.write(path, model.weight(path))
    assert generate(fresh, prompts, 12) == after


def test_generation_ends_at_the_last_position_and_at_the_end_token() -> None:
    model = tiny_model("gpt2")
    prompt = "water " * 60
    room = 128 - len(model.encode([prompt])[0])
    assert generate(model, [prompt], 500) == generate(model, [prompt], room)
    first = int(model.model(input_ids=torch.tensor(model.encode(["Old houses"]))).logits[0, -1].argmax())
    model.model.generation_config.eos_token_id = [first]
    assert generate(model, ["Old houses"], 5) == [""]


def records() -> list[Fact]:
    return [
        Fact(
            id=str(r["case_id"]),
            subject=r["requested_rewrite"]["subject"],
            prompt=r["requested_rewrite"]["prompt"],
            target_new=r["requested_rewrite"]["target_new"]["str"],
            target_true=r["requested_rewrite"]["target_true"]["str"],
            paraphrase_prompts=tuple(r["paraphrase_prompts"]),
            neighborhood_prompts=tuple(r["neighborhood_prompts"]),
        )
        for r in json.loads((GOLDEN / "records.json").read_text())
    ]


@needs_golden
@pytest.mark.parametrize(
    ("model_name", "case"),
    [("gpt2_micro", "memit_seq"), ("gpt2_tiny", "rome_last"), ("llama_tiny", "memit_batch_alphaedit_repo")],
)
def test_scores_equal_the_authors(model_name: str, case: str) -> None:
    theirs = json.loads((GOLDEN / model_name / case / "f64.json").read_text())["recorder"]["eval_before"]
    model = load(GOLDEN / model_name / "model", dtype="float64")
    facts = records()[: len(theirs)]
    names = {"efficacy": "rewrite", "paraphrase": "paraphrase", "neighborhood": "neighborhood"}
    compared = 0
    for row in recall_rows(model, facts, 0, "base"):
        kind, n = row.prompt_id.split(":")
        record = theirs[[f.id for f in facts].index(row.edit_id)]
        nll = record[f"{names[kind]}_prompts_probs"][int(n)]
        # Their scorers take log-softmax in float32 whatever the model.
        assert -row.logp_new == pytest.approx(nll["target_new"], rel=1e-5)
        assert -row.logp_true == pytest.approx(nll["target_true"], rel=1e-3, abs=1e-6)
        if row.metric.endswith(".exact@base"):
            # Not every repository records it.
            assert bool(row.value) == record.get(f"{names[kind]}_prompts_correct", {int(n): row.value})[int(n)]
        else:
            of_new, of_true = nll["target_new"], nll["target_true"]
            assert bool(row.value) == (of_true < of_new if kind == "neighborhood" else of_new < of_true)
        compared += 1
    assert compared > 50


@needs_golden
@pytest.mark.parametrize("model_name", ["gpt2_micro", "gpt2_tiny"])
def test_text_figures_equal_the_authors(model_name: str) -> None:
    theirs = json.loads((GOLDEN / "metrics.json").read_text())[model_name]
    model = load(GOLDEN / model_name / "model")
    for text, perplexity in zip(theirs["texts"], theirs["perplexity_max100"], strict=True):
        ids = model.encode([text])[0][:100]
        logps = score_tokens(model, [(ids, 1)])[0].logps
        # kmeng01/rome's `perplexity` divides by the number of tokens, of which the first is not predicted.
        assert math.exp(-float(logps.sum()) / len(ids)) == pytest.approx(perplexity, rel=1e-4)
    ours = generate(model, theirs["greedy_prompts"], 40)
    for prompt, text, expected in zip(theirs["greedy_prompts"], ours, theirs["greedy_top1_max40"], strict=True):
        assert (prompt + text).startswith(expected)
