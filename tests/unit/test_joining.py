"""An object follows its prompt as their script is written, at every door; white space at a prompt's end is told."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata.editors.gradients import pairs_of
from errata.editors.value_prompts import FactPrompts
from errata.edits import Check, Fact
from errata.edits.dataset import DataReport
from errata.edits.datasets import DATASETS
from errata.edits.jsonl import read_own
from errata.errors import EditDataError
from errata.joining import joint
from errata.probes.recall import recall_rows
from errata.probes.scoring import score
from errata.studies.trace import trace
from tiny import tiny_facts, tiny_model

TOWER = Fact(
    subject="東京タワー",
    prompt="{}はどこの都市にありますか？答えは",
    target_new="大阪",
    target_true="東京",
    paraphrase_prompts=("東京タワーの所在地は",),
    neighborhood_prompts=("東京スカイツリーの所在地は",),
)


@pytest.mark.parametrize(
    ("prompt", "wanted", "between"),
    [
        ("Ada was born in", "Oslo", " "),
        ("東京タワーの所在地は", "大阪", ""),
        ("东京塔位于", "大阪", ""),
        ("东京塔在哪里？", "大阪", ""),
        ("答案:", "大阪", ""),
        ("答えは「", "大阪", ""),
        ("他出生于", "1987年", ""),
        ("他出生于", "1987", ""),
        ("他出生于1987", "年", ""),
        ("เมืองหลวงของญี่ปุ่นคือ", "โตเกียว", ""),
        ("ນະຄອນຫຼວງຂອງລາວແມ່ນ", "ວຽງຈັນ", ""),
        ("រាជធានីរបស់ជប៉ុនគឺ", "តូក្យូ", ""),
        ("ဂျပန်နိုင်ငံ၏မြို့တော်မှာ", "တိုကျို", ""),
        ("서울은", "수도", " "),
        ("The Chinese name of Beijing is", "北京", " "),
        ("北京的英文名是", "Beijing", " "),
        ("भारत की राजधानी", "दिल्ली", " "),
        ("عاصمة مصر هي", "القاهرة", " "),
        ("1 + 1 =", "2", " "),
        ("", "東京", " "),
    ],
)
def test_the_scripts_of_prompt_and_object_say_what_stands_between(prompt: str, wanted: str, between: str) -> None:
    assert joint(prompt, wanted) == between
    assert (joint(prompt, wanted, ""), joint(prompt, wanted, " ")) == ("", " ")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_caller_reads_the_object_as_it_is_joined(family: str) -> None:
    model = tiny_model(family)
    for fact, space in ((TOWER, ""), (replace(TOWER, join=" "), " "), (tiny_facts(1)[0], " ")):
        ids = model.encode_target(fact.target_new, fact.text, fact.join)
        assert model.tokenizer.decode(ids) == space + fact.target_new
        assert pairs_of(model, [fact])[0][1] == ids
        assert FactPrompts.of(model, fact, ["{}"], False, "last").target == ids
        rows = {row.metric: row for row in recall_rows(model, [fact], 0, "base", ("efficacy",))}
        (alone,) = score(model, [(fact.text, fact.target_new)], [fact.join])
        assert rows["efficacy.exact@base"].logp_new == pytest.approx(alone.logp, abs=1e-5)
        assert fact.sentence == fact.text + space + fact.target_new
        true = model.encode_target(fact.target_true, fact.text, fact.join)
        traced = trace(model, [fact], torch.Generator().manual_seed(0), samples=1, window=1).rows
        given = torch.tensor(model.encode([fact.text]))
        shares = model.model(given).logits[0, -1].softmax(-1)
        assert traced["clean"][0] == pytest.approx(float(shares[true[0]]), rel=1e-4)
    spaced, close = score(model, [(TOWER.text, "大阪")] * 2, [" ", "auto"])
    assert spaced.logp != close.logp
    # An object alone, and one in a script with spaces, is read as ever.
    assert model.encode_target("Oslo") == model.encode_target("Oslo", "Ada was born in")


def test_a_fact_may_say_how_its_object_joins() -> None:
    hyphen = Fact(subject="Ada", prompt="{} is non-", target_new="binary", join="")
    assert hyphen.sentence == "Ada is non-binary"
    assert Fact.from_mapping(hyphen.to_mapping(), "0") == hyphen
    assert "join" not in TOWER.to_mapping()  # what says nothing of it keeps its hash
    with pytest.raises(EditDataError, match="`join` is '-', but"):
        replace(hyphen, join="-")
    assert DataReport.of([TOWER, hyphen, *tiny_facts(2)]).spaceless == 1
    assert any(
        "1 of 1 facts have their object right behind a prompt" in line for line in DataReport.of([TOWER]).lines()
    )


def test_white_space_at_the_end_of_prompts_is_taken_off_and_told_once(tmp_path: Path) -> None:
    record = {
        "subject": "Hugo",
        "prompt": "{} lives with a ",
        "target_new": "donkey",
        "target_true": "mouse",
        "paraphrase_prompts": ["Hugo keeps a\u00a0", "Hugo has a"],
        "neighborhood_prompts": ["Yara lives with a\t"],
    }
    fact = Fact.from_mapping(record, "1")
    assert (fact.text, fact.paraphrase_prompts) == ("Hugo lives with a", ("Hugo keeps a", "Hugo has a"))
    assert fact.neighborhood_prompts == ("Yara lives with a",)
    assert Fact(subject="Hugo ", prompt="The pet of {}", target_new="x").text == "The pet of Hugo"
    asked = Fact(subject="Hugo", prompt="{} is", target_new="x", checks=(Check("Hugo eats ", ("hay",), kind="alias"),))
    assert asked.checks[0].prompt == "Hugo eats"
    told = [line for line in DataReport.of([fact, asked, *tiny_facts(3)]).lines() if "white space" in line]
    assert len(told) == 1
    assert told[0].startswith("2 of 5 facts had white space at the end of a prompt")
    lines, table = tmp_path / "f.jsonl", tmp_path / "f.csv"
    lines.write_text(json.dumps(record))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("subject", "prompt", "target_new", "paraphrase_prompts"))
        writer.writeheader()
        writer.writerow({**{k: record[k] for k in ("subject", "prompt", "target_new")}, "paraphrase_prompts": "a  "})
    assert read_own(str(lines)) == [fact]
    assert read_own(str(table))[0].text == fact.text
    assert all(made.trimmed for path in (lines, table) for made in read_own(str(path)))


def test_no_reader_keeps_white_space_at_the_end_of_a_prompt(tmp_path: Path) -> None:
    def padded(value: object, name: str = "") -> object:
        if isinstance(value, dict):
            return {key: padded(part, key) for key, part in value.items()}
        if isinstance(value, list):
            return [padded(part, name) for part in value]
        texts = ("prompt", "rephrase", "src", "update", "personas", "loc", "paraphrase_prompts", "neighborhood_prompts")
        return f"{value} " if name in texts and isinstance(value, str) else value

    for name, data in DATASETS.items():
        if name in ("lab", "rippleedits"):  # the one has no file, the other's prompt is a whole sentence
            continue
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(padded(dict(data.sample))))
        (fact,) = data.read(str(tmp_path / f"{name}.jsonl"), "", 0, lambda line: None)
        texts = [fact.text, *fact.paraphrase_prompts, *fact.neighborhood_prompts, *(c.prompt for c in fact.checks)]
        assert all(text == text.rstrip() for text in texts), name
        assert fact.trimmed, name
