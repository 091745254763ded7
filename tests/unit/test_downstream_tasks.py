"""Downstream tasks: the papers' prompts and labels, local files of every set, the fence around generated code."""

import csv
import json
import logging
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  (its import sets up its own logger)
import numpy as np
import pytest
import torch

from errata.analysis.chance import guessed
from errata.errors import ConfigError, EditDataError, MissingExtraError
from errata.models import EditableModel
from errata.probes.base import View
from errata.probes.generation import generate
from errata.probes.glue import Glue, GlueSettings
from errata.probes.lm_eval import LmEval, LmEvalSettings
from errata.probes.rows import Row
from errata.probes.tasks.benchmarks import BENCHMARKS, chance_of, mbpp_results
from errata.probes.tasks.catalogue import find_task, task_catalogue
from errata.probes.tasks.execution import passes
from errata.probes.tasks.glue import glue_items, glue_parser
from errata.probes.tasks.local import read_questions
from errata.probes.tasks.outcomes import Sample, sample_rows
from errata.studies.session import build_probe
from tiny import tiny_model

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the research data are not here")
EIGHT = tuple(BENCHMARKS)


def write_lines(file: Path, records: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> EditableModel:
    """A random model with room for few-shot prompts in bytes."""
    return tiny_model("gpt2", n_positions=8192, n_layer=1)


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    for i, name in enumerate(("sst2", "cola")):
        write_lines(folder / f"{name}.jsonl", [{"sentence": f"{name} {k} ", "label": (k + i) % 2} for k in range(30)])
    for name in ("mrpc", "rte"):
        pairs = [{"sentence1": f"{name} {k}", "sentence2": "b", "label": int(k % 3 == 0)} for k in range(30)]
        write_lines(folder / f"{name}.jsonl", pairs)
    words = ("entailment", "not_entailment")
    write_lines(
        folder / "nli.jsonl", [{"sentence1": "a", "sentence2": f"b{k}", "label": words[k % 2]} for k in range(8)]
    )
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight sets in their authors' forms, a few records each."""
    folder = tmp_path_factory.mktemp("sets")
    for part in ("dev", "test"):
        for subject in ("anatomy", "virology"):
            file = folder / "mmlu" / part / f"{subject}_{part}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("w", newline="") as f:
                csv.writer(f).writerows([f"Which, {i}?", "w", "x", "y", "z", "ABCD"[i % 4]] for i in range(6))
    question = {"stem": "Where?", "choices": [{"label": c, "text": f"in {c}"} for c in "ABCDE"]}
    write_lines(folder / "commonsense_qa" / "dev.jsonl", [{"answerKey": "C", "question": question}] * 12)
    boxed = {"problem": "1 + 1?", "solution": "It is $\\boxed{2}$."}
    write_lines(folder / "math" / "test.jsonl", [boxed] * 12)
    for task, target in (("navigate", "Yes"), ("object_counting", "3")):
        examples = [{"input": f"How? {i}", "target": target} for i in range(4)]
        write_json(folder / "bbh" / f"{task}.json", {"examples": examples})
    pairs = [
        {"sentence1": f"a{i}", "sentence2": "b", "label": ("entailment", "not_entailment")[i % 2]} for i in range(12)
    ]
    write_lines(folder / "ax_b" / "AX-b.jsonl", pairs)
    asked = [{"question": "谁?", "choice": ["我", "你"], "answer": "你"}] * 2
    write_json(folder / "c3" / "c3-d-dev.json", [[["男：你好", "女：好"], asked, "1-2"]] * 6)
    for code, answer in (("en", "water"), ("sw", "")):
        qas = [{"id": str(i), "question": "What?", "answers": [{"text": answer, "answer_start": 0}]} for i in range(6)]
        entries = [{"paragraphs": [{"context": "Trees need water.", "qas": qas}]}] * 2
        write_json(folder / "tydiqa" / f"{code}.json", {"data": entries})
    problem = {
        "text": "Square.",
        "code": "def f(x):\r\n  return x * x",
        "test_setup_code": "",
        "test_list": ["assert f(2) == 4"],
    }
    write_lines(folder / "mbpp" / "mbpp.jsonl", [problem | {"task_id": i} for i in range(1, 15)])
    return folder


@contextmanager
def undisturbed(
    model: EditableModel, capfd: pytest.CaptureFixture[str], drawn: Callable[[], object] = random.getstate
) -> Iterator[None]:
    """Fail when anything global is different afterwards, or anything was printed."""
    loggers = [logging.getLogger(name) for name in ("", "lm_eval", "lm_eval.api.task", "datasets")]

    def state() -> dict[str, object]:
        return {
            "loggers": [(log.level, list(log.handlers), log.disabled, log.propagate) for log in loggers],
            "tokenizer": (model.tokenizer.pad_token, model.tokenizer.padding_side, len(model.tokenizer)),
            "random": drawn(),
            "numpy": repr(np.random.get_state()),  # noqa: NPY002
            "torch": torch.get_rng_state().tolist(),
            "environment": dict(os.environ),
            "directory": Path.cwd(),
            "weights": [p.double().sum().item() for p in model.model.parameters()],
            "training": model.model.training,
        }

    capfd.readouterr()
    before = state()
    yield
    after = state()
    assert {key: (before[key], after[key]) for key in before if before[key] != after[key]} == {}
    assert capfd.readouterr() == ("", "")


def by_metric(rows: list[Row], task: str) -> dict[str, float]:
    start = f"downstream.{task}."
    return {r.metric.removeprefix(start): r.value for r in rows if r.metric.startswith(start) and not r.prompt_id}


# The first paper's four tasks.


def test_entailment_is_true_and_the_papers_code_has_it_the_other_way_round(glue: Path) -> None:
    ours, papers = (glue_items(["rte"], str(glue), 10, 37, faithful)["rte"] for faithful in (False, True))
    for items, entailed, other in ((ours, "True", "False"), (papers, "False", "True")):
        records = [json.loads(line) for line in (glue / "rte.jsonl").read_text().splitlines()]
        for item in items:
            number = int(item.id.removeprefix("rte:"))
            assert item.label == (other if records[number]["label"] else entailed)
        shots = [block.splitlines()[-1] for block in items[0].prompt.split("\n\n")]
        assert shots == [f"answer: {entailed}", f"answer: {other}", f"answer: {entailed}", "answer:"]


def test_samples_are_balanced_and_independent_of_the_other_tasks(glue: Path) -> None:
    alone = glue_items(["cola"], str(glue), 10, 37, False)["cola"]
    assert alone == glue_items(["sst2", "cola"], str(glue), 10, 37, False)["cola"]
    assert sorted(item.label for item in alone) == ["No"] * 5 + ["Yes"] * 5
    assert {i.id for i in alone} != {i.id for i in glue_items(["cola"], str(glue), 10, 38, False)["cola"]}
    assert len({i.id for i in alone}) == 10
    with pytest.raises(EditDataError, match=r"20 with label 0 \(No\), 10 with label 1 \(Yes\);.*Set n to 20 or less"):
        glue_items(["mrpc"], str(glue), 100, 37, False)


def test_the_papers_sample_is_drawn_with_one_generator(glue: Path) -> None:
    """As the published create_glue_subset.py: shuffle each label's records in order of appearance, then the subset."""
    rng = random.Random(37)
    expected = {}
    for name in ("sst2", "mrpc", "cola", "rte"):
        classes: dict[int, list[str]] = {}
        for k, line in enumerate((glue / f"{name}.jsonl").read_text().splitlines()):
            classes.setdefault(json.loads(line)["label"], []).append(f"{name}:{k}")
        chosen: list[str] = []
        for members in classes.values():
            rng.shuffle(members)
            chosen += members[:5]
        rng.shuffle(chosen)
        expected[name] = chosen
    made = glue_items(["rte", "cola"], str(glue), 10, 37, True)
    assert {name: [i.id for i in items] for name, items in made.items()} == {n: expected[n] for n in ("rte", "cola")}


def test_prompts_end_where_the_answer_begins(glue: Path) -> None:
    ours, papers = (glue_items(["sst2", "nli"], str(glue), 4, 37, faithful) for faithful in (False, True))
    assert ours["sst2"][0].prompt.count("Review : ") == 5
    assert ours["sst2"][0].prompt.endswith(f"Review : sst2 {ours['sst2'][0].id[5:]}\nSentiment :")
    assert papers["sst2"][0].prompt.endswith(" \nSentiment :")
    assert ours["nli"][0].prompt == f"a entails the b{ours['nli'][0].id[4:]} True or False? answer:"


@pytest.mark.parametrize(
    ("task", "text", "ours", "papers"),
    [
        ("rte", " true", "true", ""),
        ("rte", " It is False", "", "false"),
        ("cola", " Nothing Yes", "", "yes"),
        ("mrpc", " Now", "", "no"),
        ("sst2", " negative positive", "negative", "positive"),
        ("sst2", " positive\nSentiment : negative", "positive", "negative"),
        ("sst2", "", "", ""),
    ],
)
def test_an_answer_is_read_at_its_start_and_by_the_papers_code_anywhere(
    task: str, text: str, ours: str, papers: str
) -> None:
    labels = find_task(task).answers.removeprefix("generated: ").split(", ")
    assert glue_parser(task, False)(text, labels) == ours
    assert glue_parser(task, True)(text, labels) == papers


def test_the_glue_probe_disturbs_nothing_and_asks_the_same_every_time(
    glue: Path, model: EditableModel, capfd: pytest.CaptureFixture[str]
) -> None:
    probe = Glue(GlueSettings(source=str(glue), n=4, tasks=("rte", "sst2")))
    # The checks of shapes, which tests alone have, draw from Python's generator.
    with undisturbed(model, capfd, drawn=lambda: None):
        probe.prepare(model, [])
        first, again = (list(probe.measure(View(model, 0))) for _ in range(2))
    assert repr(first) == repr(again)
    figures = by_metric(first, "rte")
    assert figures.keys() == {"f1", "accuracy", "invalid", "chance"}
    items = [r for r in first if r.metric == "downstream.rte.item"]
    assert figures["invalid"] == sum(math.isnan(r.value) for r in items) / 4


def test_a_prompt_without_room_is_invalid_and_counted(glue: Path) -> None:
    small = tiny_model("gpt2")
    probe = Glue(GlueSettings(source=str(glue), n=4, tasks=("cola",)))
    probe.prepare(small, [])
    assert by_metric(list(probe.measure(View(small, 0))), "cola")["invalid"] == 1.0


def test_what_is_missing_or_malformed_is_named(glue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="which is no directory"):
        glue_items(["sst2"], str(tmp_path / "nowhere"), 4, 37, False)
    with pytest.raises(ConfigError, match=r"the task 'sst2' needs sst2\.jsonl or sst2\.json in"):
        glue_items(["sst2"], str(tmp_path), 4, 37, False)
    write_lines(tmp_path / "rte.jsonl", [{"sentence1": "a", "sentence2": "b", "label": "maybe"}])
    with pytest.raises(EditDataError, match=r"rte\.jsonl, line 1: `label` is 'maybe'.*entailment, not_entailment"):
        glue_items(["rte"], str(tmp_path), 4, 37, False)
    write_lines(tmp_path / "cola.jsonl", [])
    with pytest.raises(EditDataError, match=r"cola from .* holds no record"):
        glue_items(["cola"], str(tmp_path), 4, 37, False)
    write_lines(tmp_path / "cola.jsonl", [{"sentence": f"a {i}", "label": int(i < 9)} for i in range(12)])
    with pytest.raises(EditDataError, match=r"3 with label 0 \(No\), 9 with label 1 \(Yes\); .* 4 of each. Set n to 6"):
        glue_items(["cola"], str(tmp_path), 8, 37, False)
    assert sorted(item.label for item in glue_items(["cola"], str(tmp_path), 6, 37, False)["cola"]) == 3 * [
        "No"
    ] + 3 * ["Yes"]
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: 1 / 0)
    with pytest.raises(ConfigError, match="'nyu-mll/glue' cannot be had from the hub"):
        glue_items(["rte"], "hub", 4, 37, False)
    with pytest.raises(ConfigError, match="'tau/commonsense_qa' cannot be had from the hub"):
        LmEval(LmEvalSettings(tasks=("commonsense_qa",))).prepare(tiny_model("gpt2"), [])


# The second paper's eight sets.


def measured(sets: Path, model: EditableModel, **settings: object) -> tuple[LmEval, list[Row]]:
    probe = build_probe("lm_eval", {"source": str(sets), "n": 4, "new_tokens": 3, **settings})
    assert isinstance(probe, LmEval)
    probe.prepare(model, [])
    return probe, list(probe.measure(View(model, 0)))


def test_every_set_is_asked_from_local_files_and_nothing_is_disturbed(
    sets: Path, model: EditableModel, capfd: pytest.CaptureFixture[str]
) -> None:
    with undisturbed(model, capfd):
        probe, rows = measured(sets, model, tasks=EIGHT, execute_code=True)
        assert repr(rows) == repr(list(probe.measure(View(model, 0))))
    for task in EIGHT:
        figures = by_metric(rows, task)
        assert figures.keys() == {"accuracy", "invalid", "chance", "unanswered"}
        items = [r for r in rows if r.metric == f"downstream.{task}.item"]
        assert len({r.prompt_id for r in items}) == len(items) == 4
        scored = task in ("mmlu", "commonsense_qa", "ax_b", "c3")
        for item in items:
            assert math.isnan(item.logp_true) != scored
            if scored and task != "c3":  # there by log-probability per character
                assert item.value == float(item.logp_true > item.logp_new)
    assert {r.prompt_id.rpartition(":")[0] for r in rows if r.metric == "downstream.mmlu.item"} == {
        "mmlu:anatomy", "mmlu:virology",
    }  # fmt: skip
    chances = {task: by_metric(rows, task)["chance"] for task in EIGHT}
    assert chances == pytest.approx(
        {"mmlu": 0.25, "commonsense_qa": 0.2, "math": 0, "bbh": 0.25, "ax_b": 0.5, "c3": 0.5, "tydiqa": 0, "mbpp": 0}
    )
    assert {p.name for p in probe.files()} >= {"anatomy_test.csv", "dev.jsonl", "AX-b.jsonl", "mbpp.jsonl"}


def test_an_item_without_an_answer_in_the_data_has_no_score(sets: Path, model: EditableModel) -> None:
    """lm-eval itself would count an empty generation as the empty answer's exact match."""
    _, rows = measured(sets, model, tasks=("tydiqa",))
    assert by_metric(rows, "tydiqa")["unanswered"] == 0.5
    for row in (r for r in rows if r.prompt_id.startswith("tydiqa:sw")):
        assert math.isnan(row.value)
    f1 = {r.prompt_id[:9]: r.value for r in rows if r.metric == "downstream.tydiqa.f1"}
    assert f1 == {"tydiqa:en": 0.0}


def test_a_dead_model_answers_nothing_rather_than_the_first_choice(sets: Path) -> None:
    dead = tiny_model("gpt2", n_positions=8192, n_layer=1)
    dead.parameter(dead.mlp_out(0)).data.fill_(math.nan)
    _, rows = measured(sets, dead, tasks=("ax_b", "math"), few_shot=2)
    for task in ("ax_b", "math"):
        assert by_metric(rows, task)["invalid"] == 1.0
        assert math.isnan(by_metric(rows, task)["accuracy"])
        assert all(math.isnan(r.value) and r.text == "" for r in rows if r.metric == f"downstream.{task}.item")


def test_shots_come_before_the_question_and_are_never_asked(
    sets: Path, model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from errata.probes.tasks.language_model import EditedLM

    seen: list[str] = []

    def listen(self: EditedLM, requests: list[Any]) -> list[tuple[float, bool]]:
        seen.extend(r.args[0] for r in requests)
        return [(-1.0, False)] * len(requests)

    monkeypatch.setattr(EditedLM, "loglikelihood", listen)
    measured(sets, model, tasks=("ax_b",), few_shot=2)
    assert {text.count("True or False?") for text in seen} == {3}
    assert all(text.startswith("a0\nQuestion: b True or False?\nAnswer: True\n\na1\n") for text in seen)
    assert {text.rpartition("\n\n")[2][:2] for text in seen} == {"a8", "a9", "a1"}  # of a8 to a11


def test_requests_are_answered_as_by_lm_evals_own_model() -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from errata.probes.tasks.harness import quiet
    from errata.probes.tasks.language_model import EditedLM

    model, theirs = tiny_model("gpt2"), tiny_model("gpt2")
    texts = [("Ada Bell works", " as a baker"), ("Ada Bell works", " near water"), ("The mother tongue ", "of Ada is")]
    scored = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(texts)]
    wanted = {"until": ["e"], "max_gen_toks": 6, "do_sample": False}
    written = [Instance("generate_until", {}, (text, wanted), i) for i, (text, _) in enumerate(texts)]
    with quiet():
        reference = HFLM(pretrained=theirs.model, tokenizer=theirs.tokenizer, batch_size=1, max_length=128)
        expected = reference.loglikelihood(scored), reference.generate_until(written)
    ours = EditedLM(model, 256)
    found = ours.loglikelihood(scored)
    assert [logp for logp, _ in found] == pytest.approx([logp for logp, _ in expected[0]], rel=1e-5)
    assert [best for _, best in found] == [best for _, best in expected[0]]
    assert ours.generate_until(written) == expected[1]


def test_a_continuation_ends_before_a_text(model: EditableModel) -> None:
    whole = generate(model, ["old houses stand", "many people walk"], 12)
    ends = [text[2:4] for text in whole]
    assert (
        generate(model, ["old houses stand", "many people walk"], 12, ends[:1])[0] == whole[0][: whole[0].find(ends[0])]
    )


def test_settings_are_refused_before_anything_is_read(sets: Path, model: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set execute_code: true"):
        build_probe("lm_eval", {"tasks": ["mbpp"]})
    with pytest.raises(ConfigError, match="ax_b has 8 records for shots"):
        measured(sets, model, tasks=("ax_b",), few_shot=9)
    with pytest.raises(ConfigError, match="the task 'c3' needs c3 in"):
        measured(tmp_path, model, tasks=("c3",))


def test_choices_stand_in_the_order_of_their_labels(tmp_path: Path) -> None:
    shuffled = [{"label": c, "text": f"in {c}"} for c in "CABED"]
    columns = {"label": list("ECDAB"), "text": [f"in {c}" for c in "ECDAB"]}
    forms = [{"question": {"stem": "Where?", "choices": shuffled}}, {"question": "Where?", "choices": columns}]
    write_lines(tmp_path / "q.jsonl", [{**form, "answerKey": "B"} for form in forms] * 8)
    asked, shots = read_questions(tmp_path)[""]
    for record in (*asked, *shots):
        assert record["choices"]["text"] == [f"in {c}" for c in "ABCDE"]
    for wrong in ([*shuffled[:4], {"text": "in D"}], [*shuffled[:4], {"label": "C", "text": "in D"}]):
        record = {"question": {"stem": "Where?", "choices": wrong}, "answerKey": "B"}
        write_lines(tmp_path / "q.jsonl", [record])
        with pytest.raises(EditDataError, match=r"line 1: (`label` is None|five choices labelled A to E)"):
            read_questions(tmp_path)


def test_without_the_extra_it_is_named(sets: Path, model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'errata\[eval\]'"):
        measured(sets, model, tasks=("ax_b",))


@pytest.mark.parametrize(
    ("task", "file", "content", "message"),
    [
        ("mmlu", "test/anatomy_test.csv", "Which?,a,b,c,d,E\n", "row 1: 6 cells, the last 'E'"),
        ("commonsense_qa", "dev.jsonl", '{"question": "q", "choices": {"text": ["a"]}}', "line 1: five choices"),
        ("commonsense_qa", "dev.jsonl", '{"question": "q", "choices": ["a"]}', "line 1: an object with `text`"),
        ("math", "test.jsonl", '{"problem": "p", "solution": "2"}', r"holds no \\boxed answer"),
        ("bbh", "navigate.json", '{"examples": [{"input": "a"}]}', "example 1: `target` is None"),
        ("bbh", "navigate.json", '{"examples": ["a"]}', "example 1: an object with `input`"),
        ("bbh", "navigate.json", '{"examples": []}', "bbh has nothing to ask"),
        ("bbh", "swimming.json", '{"examples": []}', "no task for the subset 'swimming'"),
        ("ax_b", "AX-b.jsonl", '{"label": "neutral"}', "line 1: `label` is 'neutral'"),
        ("ax_b", "AX-b.jsonl", '{"label": []}', r"line 1: `label` is \[\]"),
        ("c3", "d.json", '[[["a"], [{"question": "q", "choice": ["x"], "answer": "y"}], "1"]]', "'y' is not among"),
        ("c3", "d.json", '[[["a"], ["q"], "1"]]', "text 1: an object with `question`"),
        ("tydiqa", "en.json", '{"data": [{}]}', "entry 1: `paragraphs` is None"),
        ("tydiqa", "en.json", '{"data": [{"paragraphs": [{"qas": [{"answers": ["a"]}]}]}]}', "entry 1: `answers` is"),
        ("tydiqa", "klingon.json", '{"data": []}', "says no language"),
        ("mbpp", "mbpp.jsonl", '{"text": "t", "code": "c", "task_id": 11, "test_list": []}', "a list `test_list`"),
        ("mbpp", "mbpp.jsonl", '{"text": "t", "code": "c", "task_id": 11, "test_list": [1]}', "list `test_list` of"),
    ],
)
def test_a_malformed_set_is_named_by_its_place(
    task: str, file: str, content: str, message: str, tmp_path: Path, model: EditableModel
) -> None:
    place = tmp_path / task / file
    place.parent.mkdir(parents=True)
    place.write_text(content)
    with pytest.raises(EditDataError, match=message):
        measured(tmp_path, model, tasks=(task,), execute_code=True)


@pytest.mark.parametrize(
    ("record", "target", "choices", "chance"),
    [
        ({}, 0, 4, 0.25),
        ({"input": "Which?\nOptions:\n(A) one\n(B) two\n(C) three"}, "(A)", 0, 1 / 3),
        ({"input": "not True is"}, "False", 0, 0.5),
        ({"input": "How many?"}, "8", 0, 0.0),
        ({"problem": "1 + 1"}, "2", 0, 0.0),
    ],
)
def test_chance_is_what_guessing_gives(record: dict[str, str], target: object, choices: int, chance: float) -> None:
    assert chance_of(record, target, choices) == chance


@needs_shared
@pytest.mark.parametrize("task", EIGHT)
def test_the_published_files_are_read_and_asked(task: str, model: EditableModel) -> None:
    _, rows = measured(SHARED, model, tasks=(task,), n=2, new_tokens=2, few_shot=None, execute_code=True)
    figures = by_metric(rows, task)
    items = [r for r in rows if r.metric == f"downstream.{task}.item"]
    assert len(items) == 2
    if task == "tydiqa":  # the files hold questions without their answers
        assert figures["unanswered"] == 1.0
        assert "accuracy" not in figures
    else:
        assert figures["accuracy"] == sum(r.value == 1 for r in items) / 2


@needs_shared
def test_the_published_glue_files_give_two_hundred_balanced_items() -> None:
    names = ["sst2", "mrpc", "cola", "rte", "nli"]
    for faithful in (False, True):
        for items in glue_items(names, str(SHARED / "glue"), 200, 37, faithful).values():
            assert sorted(i.label for i in items) == sorted([items[0].labels[0], items[0].labels[1]] * 100)
            assert len({i.id for i in items}) == 200


# Generated code.

SQUARE = "def f(x):\n  return x * x\n"


@pytest.mark.parametrize(
    ("program", "passed"),
    [
        (SQUARE, True),
        ("import collections, math, re, heapq, datetime, decimal\n" + SQUARE, True),
        ("open('mine.txt', 'w').write('x')\n" + SQUARE, True),
        ("def f(x):\n  return x\n", False),
        ("def f(\n", False),
        ("import sys\nsys.exit(0)\n", False),
        ("import os\nos._exit(0)\n", False),
        (SQUARE + "raise SystemExit(0)\n", False),
        ("import os\nos.write(3, b'passed')\nos._exit(0)\n", False),
        ("a = [0] * 10**10\n" + SQUARE, False),
        ("import socket\nsocket.socket()\n" + SQUARE, False),
        ("import _socket\n_socket.socket()\n" + SQUARE, False),
        ("import subprocess\nsubprocess.run(['true'])\n" + SQUARE, False),
        ("import os\nos.fork()\n" + SQUARE, False),
        ("import os\nos.kill(os.getppid(), 9)\n" + SQUARE, False),
        ("import ctypes\n" + SQUARE, False),
        ("open('/proc/self/environ').read()\n" + SQUARE, False),
        ("import os\nassert set(os.environ) <= {'LANG', 'HOME', 'TMPDIR', 'LC_CTYPE', 'PWD'}\n" + SQUARE, True),
        ("input()\n" + SQUARE, False),
    ],
)
def test_a_program_passes_by_its_tests_alone(program: str, passed: bool) -> None:
    assert passes(program, ["assert f(2) == 4", "assert f(-3) == 9"]) is passed


@pytest.mark.parametrize("program", ["while True:\n  pass\n", "import time\ntime.sleep(60)\n"])
def test_an_endless_program_is_ended(program: str) -> None:
    assert not passes(program + SQUARE, ["assert True"], seconds=1, wall_seconds=2.0)


@pytest.mark.parametrize(
    "how",
    [
        "open({0!r}, 'w')",
        "os.open({0!r}, os.O_CREAT | os.O_WRONLY)",
        "os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=os.open(os.path.dirname({0!r}), os.O_RDONLY))",
        "os.mkdir({0!r})",
    ],
)
def test_nothing_is_written_or_removed_elsewhere(how: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("x")
    assert not passes(f"import os\n{how.format(str(tmp_path / 'new'))}\n{SQUARE}", ["assert f(1) == 1"])
    assert not passes(f"import os\nos.remove({str(kept)!r})\n{SQUARE}", ["assert f(1) == 1"])
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_the_choice_shown_is_the_one_that_is_scored() -> None:
    """C3's choices are compared per character: -6/3 beats -5/2, and the longer choice is what the model says."""
    record = {
        "doc_id": 0, "doc": {}, "target": 1, "acc_norm": 1.0, "resps": [[(-5.0, False)], [(-6.0, False)]],
        "arguments": [("q", "ab"), ("q", "abc")],
    }  # fmt: skip
    rows = list(sample_rows(0, Sample(BENCHMARKS["c3"], {"c3": ""}, {"c3": [0]}), [("c3", record)]))
    (item,) = (row for row in rows if row.metric == "downstream.c3.item")
    assert (item.value, item.text, item.logp_true, item.logp_new) == (1.0, "abc", -6.0, -5.0)


def test_mbpp_runs_the_problem_s_own_set_up_and_counts_silence_as_no_pass() -> None:
    problem = {"test_setup_code": "import math", "test_list": ["assert f(4) == 2"]}
    assert mbpp_results(problem, ["def f(x):\n  return math.isqrt(x)"]) == {"pass_at_1": 1.0}
    assert mbpp_results({**problem, "test_list": ["assert True"]}, [" \n"]) == {"pass_at_1": 0.0}


# What carries no signal, and the list of tasks.


def test_a_task_at_chance_is_said_to_carry_no_signal() -> None:
    def rows(task: str, right: int, n: int, chance: float) -> list[tuple[str, float]]:
        items = [1.0] * right + [0.0, math.nan] * ((n - right) // 2)
        return [(f"downstream.{task}.chance", chance), *((f"downstream.{task}.item", v) for v in items)]

    figures = [*rows("sst2", 180, 200, 0.5), *rows("mrpc", 104, 200, 0.5), *rows("math", 0, 20, 0.0)]
    unread = [("downstream.tydiqa.unanswered", 1.0), *rows("tydiqa", 0, 4, 0.0)]
    found = guessed([("efficacy.exact@base", 1.0), *figures, *unread])
    assert [line.split()[2] for line in found] == ["math", "mrpc", "tydiqa"]
    assert "52% of 200 items right (95 % interval 45% to 59%), and guessing gives 50%" in found[1]
    assert "no answer to compare with" in found[2]
    half = [("downstream.tydiqa.unanswered", 0.5), *rows("tydiqa", 4, 8, 0.0)]
    assert guessed(half) == [
        "Of the 8 items of the task tydiqa, 4 have no answer in the data to compare with: they are asked and counted, "
        "and are in no score."
    ]


def test_every_task_is_listed_with_its_probe() -> None:
    listed = task_catalogue()
    assert {name for name, info in listed.items() if info.probe == "lm_eval"} == set(EIGHT)
    assert len(listed) == 17
    assert listed["rte"].sample.endswith("... True or False?\nanswer:")
    with pytest.raises(ConfigError, match="Did you mean 'mmlu'"):
        find_task("mmul")
