"""Readers of facts: every form of a data set gives the same facts, and a bad record is named by file and line."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from errata.edits import Check
from errata.edits.datasets import DATASETS, DataReport, load_facts, load_stream
from errata.edits.orders import apply_order
from errata.errors import ConfigError, EditDataError
from tiny import tiny_facts

SHARED = Path(__file__).parents[3] / "shared" / "data" / "counterfact"
needs_counterfact = pytest.mark.skipif(not SHARED.exists(), reason="CounterFact is not beside this checkout")


def selection(**chosen):
    defaults = {"dataset": "jsonl", "path": None, "n": None, "batch_size": 1, "order": "given", "seed": 0, "repeat": 2}
    return SimpleNamespace(**{**defaults, "skip": 0, "order_file": None, "sample": "0", **chosen})


def counterfact_record(case_id: int, **changed) -> dict:
    record = {
        "case_id": case_id,
        "pararel_idx": 2796,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "subject": f"Danielle Darrieux {case_id}",
            "target_new": {"str": "English", "id": "Q1860"},
            "target_true": {"str": "French", "id": "Q150"},
        },
        "paraphrase_prompts": ["Danielle Darrieux, a native"],
        "neighborhood_prompts": ["Léon Blum is a native speaker of", "Montesquieu spoke"],
        "attribute_prompts": ["J. G. Ballard is a native speaker of"],
        "generation_prompts": ["Danielle Darrieux was born in"],
    }
    return {**record, **changed}


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["cf.json", "cf.jsonl", "cf.json.gz", "cf.jsonl.gz"])
def test_every_local_form_of_counterfact_gives_the_same_facts(tmp_path: Path, name: str) -> None:
    rows = [counterfact_record(i) for i in range(3)]
    as_lines = "jsonl" in name
    text = "".join(json.dumps(r) + "\n" for r in rows) if as_lines else json.dumps(rows)
    facts = load_facts("counterfact", str(write(tmp_path / name, text)))
    assert [f.id for f in facts] == ["0", "1", "2"]
    assert facts[1].text == "The mother tongue of Danielle Darrieux 1 is"
    assert (facts[1].target_new, facts[1].target_true, facts[1].relation) == ("English", "French", "P103")
    assert facts[1].neighborhood_prompts == ("Léon Blum is a native speaker of", "Montesquieu spoke")


def test_the_hub_form_is_put_back_into_the_order_of_case_ids(monkeypatch) -> None:
    splits = {"train": [counterfact_record(2), counterfact_record(0)], "test": [counterfact_record(1)]}
    monkeypatch.setattr("datasets.load_dataset", lambda name: splits)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *args, **kwargs: None)
    assert [f.id for f in load_facts("counterfact")] == ["0", "1", "2"]


def test_pooled_neighborhood_prompts_follow_the_record_s_own(tmp_path: Path) -> None:
    record = counterfact_record(0, neighborhood_prompts_pooled=["Jean Gabin spoke"])
    (fact,) = load_facts("counterfact", str(write(tmp_path / "cf.json", json.dumps([record]))))
    assert fact.neighborhood_prompts[-1] == "Jean Gabin spoke"
    assert len(fact.neighborhood_prompts) == 3


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"requested_rewrite": {}}, "'target_new' is missing"),
        ({"requested_rewrite": "x"}, "'requested_rewrite' holds 'x'"),
        ({"paraphrase_prompts": "one text"}, "'paraphrase_prompts'"),
        (
            {
                "requested_rewrite": {
                    "prompt": "no place for the subject",
                    "subject": "Ada",
                    "target_new": {"str": "a"},
                    "target_true": {"str": "b"},
                }
            },
            "exactly one is needed",
        ),
    ],
)
def test_a_malformed_counterfact_record_is_named_by_file_and_line(tmp_path: Path, damage: dict, named: str) -> None:
    rows = [counterfact_record(0), counterfact_record(1, **damage)]
    file = write(tmp_path / "cf.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(EditDataError, match=r"cf\.jsonl, line 2[:,] ") as caught:
        load_facts("counterfact", str(file))
    assert named in str(caught.value)


def test_jsonl_reads_what_a_fact_writes(tmp_path: Path) -> None:
    facts = tiny_facts(5)
    file = write(tmp_path / "facts.jsonl", "\n".join(json.dumps(f.to_mapping()) for f in facts) + "\n\n")
    assert load_facts("jsonl", str(file)) == facts


def test_a_jsonl_fact_without_an_id_gets_its_number(tmp_path: Path) -> None:
    line = json.dumps({"subject": "Ada", "prompt": "{} is", "target_new": "x\u2028y"}, ensure_ascii=False)
    file = write(tmp_path / "facts.jsonl", f"{line}\n{line}\n")
    assert [f.id for f in load_facts("jsonl", str(file))] == ["1", "2"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"subject": "Ada", "prompt": "{} is"}', "'target_new' missing"),
        ('{"subject": "Ada", "prompt": "{} is", "target_new": ""}', "`target_new` is ''"),
        ('{"subject": "Ada", "prompt": "{} is", "target_new": "x", "targt": "y"}', "unknown field(s) 'targt'"),
        ('{"subject": "Ada", ', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('["Ada"]', "a JSON object is needed"),
        (
            '{"subject": "Ada", "prompt": "{} is", "target_new": "x", "paraphrase_prompts": "Ada"}',
            "`paraphrase_prompts` must be a list",
        ),
        ('{"subject": "Ada", "prompt": "{} is", "target_new": "x", "paraphrase_prompts": 3}', "must be a list"),
        ('{"subject": "Ada", "prompt": "{} is", "target_new": "x", "target_true": null}', "`target_true` is None"),
        ('{"subject": "Ada", "prompt": "{} is", "target_new": "x", "relation": 3}', "`relation` is 3"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(tmp_path: Path, line: str, named: str) -> None:
    good = '{"subject": "Ada", "prompt": "{} is", "target_new": "x"}'
    file = write(tmp_path / "facts.jsonl", f"{good}\n\n{line}\n")
    with pytest.raises(EditDataError, match=r"facts\.jsonl, line 3: ") as caught:
        load_facts("jsonl", str(file))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.jsonl.gz", gzip.compress(b'{"subject": "Ada"}' * 50, mtime=0)[:40], "cut short"),
        ("a.jsonl.gz", b"no gzip at all", "cannot be read"),
        ("a.json", b'{"subject": "Ada"}', "holds a dict, but a list"),
        ("a.txt", b"subject,prompt", "ending in .json"),
        ("a.jsonl", '{"subject": "Inés"}'.encode("latin1"), "iconv -f latin1 -t utf-8"),
        ("a.csv", "subject,prompt".encode("utf-16"), "iconv -f utf-16 -t utf-8"),
        ("a.csv", b"subject;prompt;target_new\nAda, B;{} is;x\n", "separated by ';', but commas"),
        ("a.csv", b"subject\tprompt\nAda\tx\n", r"separated by '\t', but commas"),
        ("a.csv", b"subject,prompt,target_new\nAda,{} is,x\nAda,is,x\n", "a.csv, line 3: the prompt 'is' has 0"),
        ("a.csv", b"subject,prompt,colour\nAda,{} is,x\n", "a.csv, line 2: unknown field(s) 'colour'"),
        ("a.csv", b"subject,prompt,target_new\nAda,{} is,\n", "a.csv, line 2: field(s) 'target_new' missing"),
        ("a.csv", b"subject,prompt\nAda\n", "line 2: 2 cells are needed"),
        ("a.csv", b'subject,prompt\n"Ada" x,y\n', "not valid CSV"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EditDataError, match=r"a\.(json|csv|txt)") as caught:
        load_facts("jsonl", str(tmp_path / name))
    assert named in str(caught.value)


def test_missing_files_and_unknown_data_sets_say_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(EditDataError, match="there is no file"):
        load_facts("counterfact", str(tmp_path / "absent.json"))
    with pytest.raises(EditDataError, match=r"edits\.path=facts\.jsonl"):
        load_facts("jsonl")
    with pytest.raises(ConfigError, match="Did you mean 'counterfact'"):
        load_facts("counterfakt")
    with pytest.raises(EditDataError, match="'gpt2' is no lab model"):
        load_facts("lab", model="gpt2")


def test_an_unreachable_hub_is_said_at_once(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(EditDataError, match=r"no data set that the hub gives \(ConnectionError\)"):
        load_facts("counterfact", "someone/counterfact")


def test_lab_edits_contradict_the_world_and_extend_one_another() -> None:
    facts = load_facts("lab", model="lab-s", seed=3)
    assert len({f.id for f in facts}) == len(facts) > 500
    assert all(f.target_new != f.target_true and f.paraphrase_prompts for f in facts)
    assert facts == load_facts("lab", "lab-s", model="something else", seed=3)
    assert facts[:20] != load_facts("lab", model="lab-s", seed=4)[:20]


@pytest.mark.parametrize("shape", ["mapping", "nested", "flat"])
def test_an_order_file_chooses_facts_by_id(tmp_path: Path, shape: str) -> None:
    orders = {"mapping": {"0": [4, 1]}, "nested": [[4, 1], [0, 2]], "flat": [4, 1]}[shape]
    file = write(tmp_path / "orders.json.gz", json.dumps(orders))
    assert [f.id for f in apply_order(tiny_facts(6), file, "0")] == ["4", "1"]


def test_an_order_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "orders.json", json.dumps({"0": [1, 77]}))
    with pytest.raises(ConfigError, match=r"position 1: there is no fact with the id 77 among the 6"):
        apply_order(tiny_facts(6), file, "0")
    with pytest.raises(ConfigError, match=r"edits\.sample is '9'.*holds the orders: 0"):
        apply_order(tiny_facts(6), file, "9")
    with pytest.raises(ConfigError, match="cannot be read"):
        apply_order(tiny_facts(6), tmp_path / "absent.json", "0")
    file = write(tmp_path / "one.json", json.dumps({"0": 5}))
    with pytest.raises(ConfigError, match="order '0': a list of indices is needed, found 5"):
        apply_order(tiny_facts(6), file, "0")


def test_a_stream_is_ordered_cut_and_remarked_on(tmp_path: Path) -> None:
    rows = [f.to_mapping() for f in tiny_facts(6)]
    rows[2] = {**rows[0], "id": "2", "target_true": "", "neighborhood_prompts": []}
    rows[3]["target_true"] = rows[3]["target_new"]
    file = write(tmp_path / "facts.jsonl", "\n".join(map(json.dumps, rows)))
    said: list[str] = []
    stream = load_stream(selection(path=str(file), n=4, batch_size=2), "m", said.append)
    assert [f.id for f in stream.facts] == ["0", "1", "2", "3"]
    assert [line.split(" facts ")[0] for line in said] == ["1 of 4"] * 5
    assert said[0].endswith("repeat an earlier fact.")
    unique = load_stream(selection(path=str(file), order="unique"), "m")
    assert len(unique) == 5


def test_a_report_counts_what_is_unusual_and_says_nothing_otherwise() -> None:
    assert DataReport.of(tiny_facts(6)).lines() == []
    report = DataReport.of(tiny_facts(12))
    assert report.non_ascii["subject"] == sum("é" in f.subject for f in tiny_facts(12)) == 1
    assert "target_new" not in report.non_ascii


def test_duplicates_conflicts_and_checks_that_nothing_can_answer_are_told_apart() -> None:
    first, second, third = tiny_facts(3)
    same = replace(first, id="same", subject=first.subject.upper())
    other = replace(first, id="other", target_new="Elsewhere")
    chain = replace(third, checks=(Check("q", ("a",), kind="multi_hop", requires=("1", "absent")),))
    report = DataReport.of([first, second, chain, same, other])
    assert (report.duplicates, report.conflicts, report.repeated_subjects, report.unmet) == (1, 1, 2, 1)
    assert report.lines()[-1].endswith("require facts that this stream does not edit: 1.")


def test_every_data_set_shows_a_sample_that_its_reader_takes(tmp_path: Path) -> None:
    for name in DATASETS.keys() - {"lab"}:
        file = write(tmp_path / f"{name}.jsonl", json.dumps(DATASETS[name].sample))
        said: list[str] = []
        (fact,) = load_facts(name, str(file), tell=said.append)
        assert fact.subject in json.dumps(DATASETS[name].sample, ensure_ascii=False)
        assert not said
        assert name == "counterfact" or fact.checks


@needs_counterfact
def test_the_real_counterfact_is_read_whole_and_sample_1_has_unique_subjects() -> None:
    edits = selection(
        dataset="counterfact",
        path=str(SHARED / "counterfact.jsonl.gz"),
        order_file=str(SHARED / "edit_orders_unique_10x20391.json.gz"),
    )
    assert len(load_facts("counterfact", edits.path)) == 21_919
    stream = load_stream(edits, "m")
    subjects = [f.subject.lower() for f in stream.facts]
    assert len(set(subjects)) == len(subjects) == 20_391
    assert stream.facts[0].id == "14434"
