"""Every probe: what it reports, and that it leaves model and generators as they were."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from errata.analysis.curves import is_share
from errata.edits import Fact
from errata.edits.check import Check, Query
from errata.errors import ConfigError, EditDataError
from errata.lab.models import load_world
from errata.lab.tasks import TASKS
from errata.models import EditableModel
from errata.models.hooks import capture
from errata.probes import probe_class, probes
from errata.probes.base import Probe, View
from errata.probes.entropy import generation_entropy
from errata.probes.rows import Row
from errata.probes.tasks.classification import parse_answer, weighted_f1
from fingerprint import fingerprint, global_draws
from tiny import tiny_facts, tiny_model, tiny_text_file, tiny_tokenizer

FACTS = [
    replace(
        fact,
        reference_texts=(f"{fact.text} {fact.target_new}.",),
        checks=(
            Check(kind="alias", prompt=fact.paraphrase_prompts[0], answers=(fact.target_new,)),
            Check(kind="locality", prompt=fact.neighborhood_prompts[0], answers=(fact.target_true,)),
            Check(
                kind="composition_1",
                prompt="The river is",
                answers=("slow",),
                conditions=(Query(prompt="Trees are", answers=("green",)),),
            ),
        ),
    )
    for fact in tiny_facts(6)
]
ASKING = {"proficiency", "forgetting", "generated", "ripple", "unrelated", "downstream", "glue", "lm_eval"}
"""Probes that ask for answers which are right or wrong."""


def build(name: str, **settings: object) -> Probe:
    cls = probe_class(name)
    return cls(cls.Settings.model_validate(settings))


def sources(folder: Path) -> dict[str, dict[str, object]]:
    """Settings with which every probe has something to measure on a tiny model."""
    known = [
        {"subject": f.subject, "relation": r, "prompts": [f.prompt], "object": f.target_true}
        for f in tiny_facts(20)
        for r in (f.relation, "other")
    ]
    known = [{**k, "prompts": ["{} has the hobby of"]} if k["relation"] == "other" else k for k in known]
    (folder / "facts.jsonl").write_text("".join(json.dumps(k) + "\n" for k in known))
    items = [
        {"task": t, "prompt": f"Review : old houses {i}\nAnswer :", "label": "yes", "labels": ["yes", "no"]}
        for t in ("a", "b")
        for i in range(4)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    reviews = [{"sentence": f"old houses {i}", "label": i % 2} for i in range(4)]
    (folder / "sst2.jsonl").write_text("".join(json.dumps(r) + "\n" for r in reviews))
    pairs = [{"sentence1": f"houses {i}", "sentence2": "trees", "label": i % 2} for i in range(12)]
    (folder / "ax_b").mkdir(exist_ok=True)
    (folder / "ax_b" / "AX-b.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return {
        "lm_eval": {"source": str(folder), "tasks": ["ax_b"], "n": 2},
        "glue": {"source": str(folder), "tasks": ["sst2"], "n": 4},
        "unrelated": {"source": str(folder / "facts.jsonl"), "n": 8},
        "downstream": {"source": str(folder / "tasks.jsonl"), "n": 3},
        "perplexity": {"source": str(tiny_text_file(folder)), "lines": 5},
        "drift": {"source": str(tiny_text_file(folder)), "keys": 30},
        "entropy": {"new_tokens": 8},
        **{name: {"new_tokens": 4} for name in ("generated", "ripple")},
        **{name: {"new_tokens": 6, "prompts": 2} for name in ("fluency", "consistency")},
    }


def views(model: EditableModel) -> list[View]:
    path = model.mlp_out(1)
    W = model.weight(path).clone()
    edited = {"base": {path: W}, "masters": {path: W + 0.5}}
    return [
        View(model, 0),
        View(model, 1, FACTS[:1], FACTS[:1], **edited),
        View(model, 2, FACTS[1:2], FACTS[:2], True, **edited),
    ]


def test_all_probes_are_found_and_a_wrong_name_is_answered() -> None:
    assert set(probes()) >= {
        "generated", "ripple", "proficiency", "forgetting", "unrelated", "downstream", "perplexity", "drift", "text",
        "entropy",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="Did you mean 'forgetting'"):
        probe_class("forgeting")
    assert build("forgetting").settings.every == 20
    assert build("proficiency").settings.every == 1


def test_rows_can_be_read_without_torch() -> None:
    code = "import sys, errata.probes.rows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def patterns() -> list[re.Pattern[str]]:
    """The names in the first column of the tables of docs/metrics.md, `<...>` standing for one word."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    return [re.compile("[a-z0-9_]+".join(map(re.escape, re.split("<[a-z]+>", name)))) for name in names]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("name", sorted(probes()))
def test_probes_read_and_change_nothing(
    name: str, family: str, dead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family)
    drawn = global_draws(monkeypatch)
    if dead:
        model.parameter(model.mlp_out(1)).data.fill_(math.nan)
    probe, again = (build(name, **sources(tmp_path).get(name, {})) for _ in range(2))
    moments = views(model)
    before = fingerprint(model)
    probe.prepare(model, FACTS)
    assert fingerprint(model) == before
    made = []
    for view in moments:
        made += probe.measure(view)
        after = fingerprint(model)
        assert [key for key in before if before[key] != after[key]] == []
        assert drawn == []
    again.prepare(model, FACTS)
    assert made
    assert repr(made) == repr([row for view in moments for row in again.measure(view)])
    known = patterns()
    undocumented = {r.metric for r in made if not any(p.fullmatch(r.metric) for p in known)}
    assert not undocumented, "docs/metrics.md has no row for these"
    if dead:  # what a dead model was asked has no answer: neither right nor wrong, and there all the same
        answers = [r for r in made if is_share(r.metric)]
        assert all(math.isnan(r.value) for r in answers)
        assert bool(answers) == (name in ASKING)


def test_a_fingerprint_sees_what_it_is_there_to_see() -> None:
    changes: dict[str, Callable[[EditableModel], object]] = {
        "tensors": lambda m: m.weight(m.mlp_out(0)).add_(1e-3),
        "versions": lambda m: m.parameter(m.mlp_out(0)).mul_(1.0),
        "training": lambda m: m.model.train(),
        "gradients": lambda m: m.model.requires_grad_(True),
        "hooks": lambda m: m.block(0).register_forward_hook(lambda *_: None),
        "handle": lambda m: setattr(m, "preface", str.upper),
        "generators": lambda m: torch.rand(1),
    }
    state = torch.get_rng_state()
    for what, change in changes.items():
        model = tiny_model("gpt2")
        before = fingerprint(model)
        assert fingerprint(model) == before
        change(model)
        assert fingerprint(model)[what] != before[what], what
    torch.set_rng_state(state)


def test_proficiency_reports_now_base_and_end() -> None:
    model = tiny_model("gpt2")
    probe = build("proficiency")
    no_truth = Fact(subject="Ada", prompt="{} is", target_new="old", id="x", neighborhood_prompts=("Boris is",))
    probe.prepare(model, [*FACTS, no_truth])
    base, now, end = (list(probe.measure(v)) for v in views(model))
    kinds = {f"{k}.{m}" for k in ("efficacy", "paraphrase", "neighborhood") for m in ("success", "exact")}
    assert {r.metric for r in base} == {f"{k}@base" for k in kinds}
    assert {r.metric for r in now} == {f"{k}@now" for k in kinds}
    assert {(r.metric, r.edit_id) for r in end} == {(f"{k}@now", "1") for k in kinds} | {
        (f"{k}@end", i) for k in kinds for i in "01"
    }
    assert {r.prompt_id for r in now} == {
        "efficacy:0", "paraphrase:0", "paraphrase:1", "neighborhood:0", "neighborhood:1",
    }  # fmt: skip
    assert [r.metric for r in base if r.edit_id == "x"] == ["efficacy.exact@base"]
    for row in (r for r in base if "success" in r.metric):
        wins = row.logp_true > row.logp_new if row.metric.startswith("neighborhood") else row.logp_new > row.logp_true
        assert row.value == float(wins)
    assert {r.value for r in base if "success" in r.metric} == {0.0, 1.0}


def test_forgetting_asks_for_all_edited_facts() -> None:
    model = tiny_model("gpt2")
    rows = [list(build("forgetting").measure(v)) for v in views(model)]
    assert [len(r) for r in rows] == [0, 2, 4]
    assert {r.metric for r in rows[2]} == {"efficacy.success@retest", "efficacy.exact@retest"}
    with_paraphrases = list(build("forgetting", paraphrases=True).measure(views(model)[2]))
    assert {r.prompt_id for r in with_paraphrases} == {"efficacy:0", "paraphrase:0", "paraphrase:1"}


def test_unrelated_facts_leave_out_what_is_edited(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    probe = build("unrelated", source=sources(tmp_path)["unrelated"]["source"])
    probe.prepare(model, FACTS)
    start, one, two = (list(probe.measure(v)) for v in views(model))
    subjects = [f.subject for f in FACTS]
    others = [r.prompt_id for r in start if r.metric == "unrelated.exact"]
    assert len(others) == 2 * (20 - len(FACTS))
    assert not any(s in p for s in subjects for p in others)
    assert others == [r.prompt_id for r in two if r.metric == "unrelated.exact"]
    same = [[r for r in rows if r.metric == "same_subject.exact"] for rows in (start, one, two)]
    assert [len(rows) for rows in same] == [6, 1, 2]
    assert {(r.prompt_id, r.edit_id) for r in same[2]} == {(f"{subjects[i]} has the hobby of", str(i)) for i in (0, 1)}
    few = build("unrelated", **sources(tmp_path)["unrelated"])
    few.prepare(model, FACTS)
    assert sum(r.metric == "unrelated.exact" for r in few.measure(View(model, 0))) == 8


@pytest.mark.parametrize("name", ["unrelated", "downstream", "perplexity"])
def test_a_model_without_a_world_yields_nothing_by_default(name: str) -> None:
    model = tiny_model("gpt2")
    probe = build(name)
    probe.prepare(model, FACTS)
    assert list(probe.measure(View(model, 0))) == []


def test_a_task_gives_its_figures_and_every_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [" yes, it is", "No.", " old"]
    name = "errata.probes.tasks.classification.generate"
    monkeypatch.setattr(name, lambda model, prompts, *_: said[: len(prompts)])
    probe = build("downstream", **sources(tmp_path)["downstream"])
    probe.prepare(model := tiny_model("gpt2"), FACTS)
    rows = [r for r in probe.measure(View(model, 7)) if r.metric.startswith("downstream.b.")]
    assert {r.metric: r.value for r in rows[:4]} == {
        "downstream.b.f1": pytest.approx(0.5),
        "downstream.b.accuracy": pytest.approx(1 / 3),
        "downstream.b.invalid": pytest.approx(1 / 3),
        "downstream.b.chance": 0.5,
    }
    asked = [r.prompt_id for r in rows[4::3]]
    assert asked == sorted(set(asked) & {f"b:{i}" for i in range(4)})
    classes = {"item": said, "gold": ["yes"] * 3, "given": ["yes", "no", ""]}
    values = {"item": (1.0, 0.0, math.nan), "gold": (0.0, 0.0, 0.0), "given": (0.0, 1.0, math.nan)}
    for i, what in enumerate(classes):
        found = [(r.metric, r.value, r.text) for r in rows[4 + i :: 3]]
        expected = zip(values[what], classes[what], strict=True)
        assert repr(found) == repr([(f"downstream.b.{what}", *pair) for pair in expected])


def test_a_model_that_says_nothing_has_no_score_and_one_that_says_something_else_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = build("downstream", **sources(tmp_path)["downstream"])
    probe.prepare(model := tiny_model("gpt2"), FACTS)
    for said, score in (("", math.nan), (" perhaps", 0.0)):
        name = "errata.probes.tasks.classification.generate"
        monkeypatch.setattr(name, lambda model, prompts, *_, said=said: [said] * len(prompts))
        figures = {r.metric: r.value for r in probe.measure(View(model, 0)) if not r.prompt_id}
        assert figures["downstream.b.invalid"] == 1.0
        for what in ("f1", "accuracy"):
            assert figures[f"downstream.b.{what}"] == pytest.approx(score, nan_ok=True)


def test_a_lab_model_brings_its_world_along() -> None:
    model = tiny_model("gpt2")
    model.name = "lab-s"
    world = load_world("lab-s")
    facts = [Fact.from_mapping(e, "0") for e in world.edits(5, 0)]
    for name, expected in (("unrelated", 300), ("perplexity", 202)):
        probe = build(name)
        probe.prepare(model, facts)
        rows = list(probe.measure(View(model, 1)))
        assert len(rows) == expected
    probe = build("downstream", n=4)
    prepared: Row = next(iter(_measured_on_long(probe, facts)))
    assert prepared.metric == f"downstream.{next(iter(TASKS))}.f1"


def _measured_on_long(probe: Probe, facts: list[Fact]) -> list[Row]:
    """Measure with a model of enough positions for few-shot prompts in bytes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=420, n_embd=16, n_layer=1, n_head=2, n_positions=1024)
    with torch.random.fork_rng(devices=[]):
        model = EditableModel(GPT2LMHeadModel(config), tiny_tokenizer(bos=False), "lab-s")
    probe.prepare(model, facts)
    return list(probe.measure(View(model, 0)))


def test_drift_has_both_scales_and_growth() -> None:
    model = tiny_model("gpt2")
    path = model.mlp_out(0)
    view = View(model, 3, base={path: torch.full((2, 3), 2.0)}, masters={path: torch.full((2, 3), 3.0)})
    absolute, relative, growth = build("drift", dominant=False).measure(view)
    assert (absolute.metric, absolute.value) == ("drift.mean_abs", pytest.approx(6**0.5 / 6, rel=1e-15))
    assert (relative.metric, relative.value, relative.prompt_id) == ("drift.relative", pytest.approx(0.5), path)
    assert (growth.metric, growth.value) == ("drift.growth", pytest.approx(1.5))
    zero = replace(view, base={path: torch.zeros(2, 3)})
    assert [r.value for r in build("drift").measure(zero)][1] == math.inf


@pytest.mark.parametrize("shape", [(5, 7), (7, 5)])
def test_drift_overlaps_with_the_dominant_directions(shape: tuple[int, int]) -> None:
    """W₀ = Σ σ_i u_i v_iᵀ with one dominant direction; updates along and across it are told apart."""
    rng = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(n, 5, generator=rng))[0] for n in shape)
    W = (U * torch.tensor([10.0, 2.0, 1.0, 1.0, 1.0])) @ V.T
    model = tiny_model("gpt2")
    cases = {
        (0, 0): (1.0, 1.0, 1.0),  # what REVIVE takes away whole
        (0, 3): (1.0, 1.0, 0.0),
        (3, 0): (1.0, 0.0, 1.0),
        (2, 3): (0.0, 0.0, 0.0),  # what it leaves alone
    }
    probe = build("drift", energy=0.5)
    for (i, j), expected in cases.items():
        view = View(
            model, 1, FACTS[:1], FACTS[:1], base={"w": W}, masters={"w": W + 0.3 * torch.outer(U[:, i], V[:, j])}
        )
        found = {r.metric: r.value for r in probe.measure(view)}
        shares = [found[f"drift.dominant{side}"] for side in ("", "_left", "_right")]
        assert shares == pytest.approx(expected, abs=1e-5)
    mixed = W + torch.outer(U[:, 0], V[:, 0]) + torch.outer(U[:, 3], V[:, 3])
    (share,) = [r.value for r in probe.measure(replace(view, masters={"w": mixed})) if r.metric == "drift.dominant"]
    assert share == pytest.approx(0.5, abs=1e-5)
    unchanged = {r.metric for r in probe.measure(replace(view, masters={"w": W}))}
    assert unchanged == {"drift.mean_abs", "drift.relative", "drift.growth"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_preservation_loss_is_over_held_out_keys(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    path = model.mlp_out(1)
    W = model.weight(path).clone()
    probe = build("drift", source=str(tiny_text_file(tmp_path)), keys=20, dominant=False)
    probe.prepare(model, FACTS)
    (line,) = model.encode([tiny_text_file(tmp_path).read_text().split("\n")[0]])
    with capture(model.model, [path]) as seen:
        model.model(input_ids=torch.tensor([line]))
    first = int(family == "llama")  # its beginning token is no key of the text
    keys = seen[path].input[0, first:][:20]
    assert len(keys) == 20
    moved = W + 0.1 * torch.randn(W.shape, generator=torch.Generator().manual_seed(0))
    expected = (keys @ (moved - W).T).square().sum(-1) / (keys @ W.T).square().sum(-1)
    found = {r.metric: r.value for r in probe.measure(View(model, 1, base={path: W}, masters={path: moved}))}
    assert found["drift.preservation"] == pytest.approx(float(expected.mean()), rel=1e-4)
    # An update that no held-out key meets preserves them all, however large it is.
    outside = torch.eye(W.shape[1]) - torch.linalg.pinv(keys) @ keys
    masters = {path: W + 5 * torch.ones_like(W) @ outside}
    found = {r.metric: r.value for r in probe.measure(View(model, 1, base={path: W}, masters=masters))}
    assert found["drift.preservation"] < 1e-6  # float32
    assert found["drift.relative"] > 1


def test_text_rows_carry_the_continuation() -> None:
    model = tiny_model("gpt2")
    probe = build("text")
    probe.prepare(model, FACTS)
    base, now, end = (list(probe.measure(v)) for v in views(model))
    assert [r.metric for r in base] == ["text@base"] * len(FACTS)
    assert [r.metric for r in now] == ["text@now"]
    assert [r.metric for r in end] == ["text@now", "text@end", "text@end"]
    assert now[0].text == base[0].text != ""
    assert math.isnan(now[0].value)
    again = [FACTS[0], replace(FACTS[0], id="again", target_new="else")]
    end = list(probe.measure(View(model, 2, [], again, final=True)))
    assert [r.edit_id for r in end] == ["again"]  # the first shall be forgotten


def test_perplexity_of_a_dead_model_is_nan_and_of_a_hopeless_one_infinite(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    probe = build("perplexity", **sources(tmp_path)["perplexity"])
    probe.prepare(model, FACTS)
    row, by_word, *lines = probe.measure(View(model, 0))
    assert row.value == pytest.approx(math.exp(-row.logp_true), rel=1e-12)
    nll, tokens = (sum(r.value for r in lines if r.metric == f"perplexity.{what}") for what in ("nll", "tokens"))
    assert row.value == pytest.approx(math.exp(nll / tokens), rel=1e-9)
    assert by_word.metric == "perplexity.word"
    assert by_word.value > row.value  # several tokens a word
    model.head.weight.data.mul_(1e5)
    assert [r.value for r in probe.measure(View(model, 0))][:2] == [math.inf] * 2
    model.head.weight.data.fill_(math.nan)
    assert all(math.isnan(r.value) for r in probe.measure(View(model, 0)) if r.metric != "perplexity.tokens")


def test_windows_predict_every_token_once(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    file = tiny_text_file(tmp_path)
    (whole,) = model.encode(["\n".join(file.read_text().split("\n")[:4])])
    probe = build("perplexity", source=str(file), lines=4, max_tokens=24, stride=8)
    probe.prepare(model, FACTS)
    rows = list(probe.measure(View(model, 0)))
    tokens = [int(r.value) for r in rows if r.metric == "perplexity.tokens"]
    assert sum(tokens) == len(whole) - 1
    assert tokens[0] == 23
    assert set(tokens[1:-1]) == {8}
    # Window by window, from at least 16 tokens before each.
    expected, done = 0.0, 1
    for start in range(0, len(whole), 8):
        end = min(start + 24, len(whole))
        if end > done:
            logits = model.model(input_ids=torch.tensor([whole[start:end]])).logits[0].double().log_softmax(-1)
            expected += sum(float(logits[i - start - 1, whole[i]]) for i in range(done, end))
            done = end
    assert rows[0].value == pytest.approx(math.exp(-expected / (len(whole) - 1)), rel=1e-5)
    words = model.tokenizer.decode(whole[1:]).split()
    assert rows[1].value == pytest.approx(math.exp(-expected / len(words)), rel=1e-5)
    with pytest.raises(ValidationError, match="leave some out"):
        build("perplexity", max_tokens=16, stride=16)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_window_reads_what_a_method_puts_before_it_as_a_line_does(family: str, tmp_path: Path) -> None:
    file = tmp_path / "line.txt"
    file.write_text(tiny_text_file(tmp_path).read_text().split("\n")[1] + "\n")
    model, told = tiny_model(family), []
    for window in ({}, {"stride": 4}):
        probe = build("perplexity", source=str(file), lines=1, max_tokens=100, **window)
        probe.prepare(model, FACTS)
        model.preface = lambda text: "old houses stand\n"
        told.append([r.value for r in probe.measure(View(model, 1)) if r.metric != "perplexity.word"])
        model.preface = None
    assert told[1] == pytest.approx(told[0], rel=1e-6)


def test_perplexity_of_wikitext(tmp_path: Path) -> None:
    file = Path(__file__).parents[3] / "shared" / "data" / "wikitext2" / "wiki.test.tokens"
    if not file.is_file():
        pytest.skip("needs shared/data/wikitext2")
    model = tiny_model("gpt2")
    probe = build("perplexity", source=str(file), lines=40, max_tokens=128, stride=64)
    probe.prepare(model, FACTS)
    rows = list(probe.measure(View(model, 0)))
    text = "\n".join(file.read_text(encoding="utf-8").split("\n")[:40])
    (ids,) = model.encode([text])
    assert sum(r.value for r in rows if r.metric == "perplexity.tokens") == len(ids) - 1 > 2000
    # A random model is about as good as guessing among its tokens, and far worse on words, which are several.
    assert 0.5 * 420 < rows[0].value < 420**3
    ratio = math.log(rows[1].value) / math.log(rows[0].value)
    assert ratio == pytest.approx((len(ids) - 1) / len(text.split()), rel=0.01)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" positive\n", "positive"),
        ("Negative.", "negative"),
        ("\n negative positive", "negative"),
        ("positively", ""),
        (": positive", ""),
        ("", ""),
        ("CBS CBS CBS", ""),
    ],
)
def test_the_answer_is_the_label_at_the_start(text: str, answer: str) -> None:
    assert parse_answer(text, ("positive", "negative")) == answer
    assert parse_answer("not acceptable", ("not", "not acceptable")) == "not acceptable"


@pytest.mark.parametrize(
    ("truth", "given", "f1"),
    [
        (["a", "b"], ["a", "b"], 1.0),
        (["a", "b"], ["", ""], 0.0),
        # A constant answer on two balanced classes: F1 2/3 and 0.
        (["a", "a", "b", "b"], ["a", "a", "a", "a"], 1 / 3),
        # a: TP 1, FP 0, FN 1 gives 2/3; b: TP 1, FP 1, FN 0 gives 2/3.
        (["a", "a", "b"], ["a", "b", "b"], 2 / 3),
        # a: TP 2, FP 0, FN 1 (invalid) gives 4/5, weight 3; b: TP 1 gives 1, weight 1.
        (["a", "a", "a", "b"], ["a", "a", "", "b"], (3 * 0.8 + 1) / 4),
        # An answer that is never true takes no weight, but is a miss.
        (["a", "b"], ["c", "b"], 0.5),
    ],
)
def test_weighted_f1(truth: list[str], given: list[str], f1: float) -> None:
    assert weighted_f1(truth, given) == pytest.approx(f1, abs=1e-15)


@pytest.mark.parametrize(
    ("text", "entropy"),
    [
        ("", math.nan),
        (" . ", math.nan),
        ("CBS cbs. CBS", 0.0),
        ("one two three four.", 1.0),
        # Shares 3/4 and 1/4 of two words.
        ("a a a b", 0.75 * math.log2(4 / 3) + 0.25 * 2),
        # Shares 1/2, 1/4, 1/4: 1.5 bits of log₂ 3.
        ("a A. b c", 1.5 / math.log2(3)),
    ],
)
def test_entropy_is_normalised_over_distinct_words(text: str, entropy: float) -> None:
    assert generation_entropy(text) == pytest.approx(entropy, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("unrelated", '{"subject": "Ada", "prompt": "is from", "object": "Oslo"}', "line 1: the prompts are"),
        ("unrelated", '{"subject": "Ada", "prompt": "{} is from"}', "line 1: `object` is None"),
        ("unrelated", "\n{", "line 2: not valid JSON"),
        ("downstream", '{"task": "t", "prompt": "p", "label": "x", "labels": ["y"]}', "line 1: `labels` is"),
        ("downstream", "[]", "line 1: a JSON object is needed"),
    ],
)
def test_a_malformed_source_is_named_by_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "source.jsonl").write_text(content)
    with pytest.raises(EditDataError, match=f"source.jsonl, {message}"):
        build(name, source=str(tmp_path / "source.jsonl")).prepare(tiny_model("gpt2"), FACTS)


def test_a_missing_or_empty_source_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("unrelated", "downstream", "perplexity"):
        with pytest.raises(ConfigError, match=rf"probes \({name}\): source.*nowhere.txt"):
            build(name, source="nowhere.txt").prepare(tiny_model("gpt2"), FACTS)
    with pytest.raises(ConfigError, match="no line of at least two tokens"):
        build("perplexity", source=str(tmp_path / "empty.txt")).prepare(tiny_model("gpt2"), FACTS)
