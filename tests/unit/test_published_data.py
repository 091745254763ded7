"""Readers of published data sets: what becomes of every field, in each of their layouts."""

import json
from pathlib import Path

import jsonschema
import pytest

from errata.cli import catalogue
from errata.editors.registry import editor_class
from errata.edits import Check, Fact, Query
from errata.edits.datasets import DATASETS, DataReport, load_facts
from errata.edits.fields import with_place_for
from errata.errors import ConfigError, EditDataError
from errata.studies.recipe import load_recipe
from errata.studies.session import build_probe

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.exists(), reason="the published data sets are not beside this checkout")


def read(tmp_path: Path, name: str, *records: dict, file: str = "data.json") -> tuple[list[Fact], list[str]]:
    (tmp_path / file).write_text(json.dumps(records), encoding="utf-8")
    said: list[str] = []
    return load_facts(name, str(tmp_path / file), tell=said.append), said


ZSRE = {
    "subject": "Delta Serpentis",
    "src": "Which constellation does Delta Serpentis belong to?",
    "pred": "Serpens",
    "rephrase": "What's the constellation of Delta Serpentis?",
    "alt": "Virgo",
    "answers": ["Serpens", "Serpens Caput"],
    "loc": "nq question: who sang it",
    "loc_ans": "Reel 2 Real",
    "cond": "Serpens >> Virgo || Which constellation does Delta Serpentis belong to?",
}


def test_zsre_in_mend_s_layout(tmp_path: Path) -> None:
    asked = {"Recalled Relation": "...", "New Question": "Which zodiac sign is it?", "New Answer": "The Virgin"}
    facts, said = read(
        tmp_path, "zsre", {**ZSRE, "alt": ""}, {**ZSRE, "subject": "Alpha"}, ZSRE, {**ZSRE, "portability": asked}
    )
    assert [f.id for f in facts] == ["2", "3"]
    assert facts[0] == Fact(
        subject="Delta Serpentis",
        prompt="Which constellation does {} belong to?",
        target_new="Virgo",
        target_true="Serpens",
        id="2",
        paraphrase_prompts=("What's the constellation of Delta Serpentis?",),
        checks=(Check("nq question: who sang it?", ("Reel 2 Real",), kind="locality"),),
    )
    assert facts[1].checks[1] == Check("Which zodiac sign is it?", ("The Virgin",), kind="portability")
    assert ["no new object" in said[0], "does not hold its subject" in said[1]] == [True, True]
    assert said[1].endswith("data.json, record 2).")


KNOWEDIT = {
    "subject": "Leo Arons",
    "prompt": "The place of death of Leo Arons is ",
    "target_new": "Berlin",
    "portability": {
        "Reasoning": [{"prompt": "Its mayor is", "ground_truth": [["Kai Wegner", "Kai Peter Wegner"]]}],
        "Logical_Generalization": [{"prompt": "Is he alive?", "ground_truth": [["no"], ["is dead"]]}],
        "Subject_Aliasing": [{"prompt": "The place of death of Martin Leo Arons is", "ground_truth": "Berlin"}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "His father is", "ground_truth": [["Albert"]]}],
        "Forgetfulness": [{"prompt": "Not Berlin, but", "ground_truth": [[""]]}],
    },
}


def test_knowedit_s_wikidata_sets(tmp_path: Path) -> None:
    ((fact,), said) = read(tmp_path, "knowedit", {**KNOWEDIT, "ground_truth": "Munich", "rephrase": "He died in"})
    assert (fact.text, fact.target_new, fact.target_true) == ("The place of death of Leo Arons is", "Berlin", "Munich")
    assert fact.paraphrase_prompts == ("He died in",)
    assert [(c.kind, c.answers) for c in fact.checks] == [
        ("portability", ("Kai Wegner", "Kai Peter Wegner")),
        ("logical", ("no", "is dead")),
        ("alias", ("Berlin",)),
        ("specificity", ("Albert",)),
    ]
    assert not said


def test_knowedit_s_wikibio_and_zsre(tmp_path: Path) -> None:
    bio = {
        "concept": "john reynolds",
        "text": "This is about john reynolds. Sir",
        "labels": "He slept.",
        "locality": {},
    }
    ((fact,), _) = read(tmp_path, "knowedit", bio)
    assert (fact.subject, fact.prompt, fact.target_new) == ("john reynolds", "This is about {}. Sir", "He slept.")
    zsre = {
        "subject": "Epaspidoceras",
        "target_new": "Noctuidae",
        "prompt": "Which family does Epaspidoceras belong to?",
        "ground_truth": ["Aspidoceratidae"],
        "rephrase_prompt": "What family are Epaspidoceras?",
        "locality": {"Relation_Specificity": [{"prompt": "Its rank is", "ground_truth": ["genus"]}]},
    }
    ((as_zsre,), _) = read(tmp_path, "zsre", zsre)
    ((as_knowedit,), _) = read(tmp_path, "knowedit", zsre)
    assert as_zsre == as_knowedit
    assert (as_zsre.target_true, as_zsre.paraphrase_prompts) == ("Aspidoceratidae", ("What family are Epaspidoceras?",))


def hop(subject: str, new: str, question: str) -> dict:
    prompt = "{} is led by"
    return {"subject": subject, "prompt": prompt, "question": question, "relation_id": "P1", "target_new": {"str": new}}


def case(number: int, *hops: dict, answer: str) -> dict:
    return {
        "case_id": number,
        "requested_rewrite": list(hops),
        "questions": [f"q{number}a", f"q{number}b"],
        "new_answer": answer,
        "new_answer_alias": ["", f"{answer}!"],
        "new_single_hops": [
            {"question": h["question"], "answer": h["target_new"]["str"], "answer_alias": ["X"]} for h in hops
        ],
    }


def test_mquake_s_questions_stand_at_the_last_fact_they_need(tmp_path: Path) -> None:
    a, b, c = hop("A", "B", "a?"), hop("B", "C", "b?"), hop("C", "D", "c?")
    facts, said = read(tmp_path, "mquake", case(7, b, a, answer="C"), case(8, a, c, answer="D"), case(9, b, answer="E"))
    assert [(f.id, f.subject, f.target_new) for f in facts] == [("7.0", "B", "C"), ("7.1", "A", "B"), ("8.1", "C", "D")]
    assert said == ["5 requests of the cases are 3 different facts; each is edited once."]
    first, second, third = facts
    assert second.checks == (
        Check("q7a", ("C", "C!"), kind="multi_hop", group="7", requires=("7.0",)),
        Check("q7b", ("C", "C!"), kind="multi_hop", group="7", requires=("7.0",)),
        Check("a?", ("B", "X"), kind="one_hop"),
    )
    assert [(c.group, c.requires) for c in third.checks if c.kind == "multi_hop"] == [("8", ("7.1",))] * 2
    assert [c.prompt for c in first.checks] == ["b?", "q9a", "q9b"]
    assert DataReport.of(facts).unmet == 0
    assert DataReport.of(facts[1:]).unmet == 2


def test_mquake_cases_that_other_cases_edits_answer_otherwise_are_told(tmp_path: Path) -> None:
    one, two = case(1, hop("A", "B", "a?"), answer="C"), case(2, hop("B", "D", "b?"), answer="D")
    one["orig"] = {"new_triples": [["A", "led", "B"], ["B", "led", "C"]], "edit_triples": [["A", "led", "B"]]}
    two["orig"] = {"new_triples": [["B", "led", "D"]], "edit_triples": [["B", "led", "D"]]}
    _, said = read(tmp_path, "mquake", one, two)
    assert said[0].startswith("1 of 2 cases lead over a fact that another case edits to something else")
    with pytest.raises(EditDataError, match="record 2, orig: field 'edit_triples' must be a list of triples"):
        read(tmp_path, "mquake", one, {**two, "orig": {"edit_triples": [["B", "led"]]}})


def query(prompt: str, *objects: list[str]) -> dict:
    return {"prompt": prompt, "answers": [{"value": names[0], "aliases": names[1:]} for names in objects]}


def test_rippleedits_six_criteria_with_conditions(tmp_path: Path) -> None:
    record = {
        "example_type": "popular",
        "edit": {
            "prompt": "The name of the author of All is Lost is Ada Bell.",
            "relation": "AUTHOR",
            "previous_fact": {"prompt": "The name of the author of All is Lost is J. C. Chandor."},
        },
        "Relation_Specificity": [
            {"test_queries": [query("s", ["x1", "y"], ["z1"], ["w"])], "test_condition": "OR", "condition_queries": []}
        ],
        "Logical_Generalization": [
            {
                "test_queries": [query("l1", [None, "yes", "y"]), query("l2", ["aye"])],
                "test_condition": "OR",
                "condition_queries": [query("known", ["one"], ["two"])],
            }
        ],
        "Subject_Aliasing": [
            {"test_queries": [query("a1", ["x1"]), query("a2", ["x2"])], "test_condition": "AND"},
        ],
        "Compositionality_I": [{"test_queries": [query("c1", ["x1"])]}],
        "Compositionality_II": [{"test_queries": [query("c2", ["x1"])]}],
        "Forgetfulness": [{"test_queries": [query("f", ["x1"]), query("none", ["w"])]}],
    }
    other = {**record, "edit": {"prompt": "Somebody wrote it.", "relation": "AUTHOR"}}
    ((fact,), said) = read(tmp_path, "rippleedits", record, other)
    assert (fact.subject, fact.prompt) == ("All is Lost", "The name of the author of {} is")
    assert (fact.target_new, fact.target_true, fact.relation) == ("Ada Bell", "J. C. Chandor", "AUTHOR")
    by_kind: dict[str, list[Check]] = {}
    for check in fact.checks:
        by_kind.setdefault(check.kind, []).append(check)
    assert by_kind["specificity"] == [Check("s", ("x1",), (("z1",),), kind="specificity")]
    one, two = by_kind["logical"]
    assert one.group == two.group != ""
    assert one.conditions == (Query("known", ("one",), (("two",),)),)
    assert [c.group for c in by_kind["alias"]] == ["", ""]
    assert [c.prompt for c in by_kind["preservation"]] == ["f"]
    assert set(by_kind) == {"specificity", "logical", "alias", "composition_1", "composition_2", "preservation"}
    assert said[0].startswith("1 record is left out: the sentence does not follow")


@pytest.mark.parametrize(
    ("relation", "sentence", "expected"),
    [
        ("COUNTRY_OF_CITIZENSHIP", "The name of the country of citizenship of Leo is Syria.", ("Leo", "Syria")),
        ("FOLLOWED_BY", "Help! is followed by Rubber Soul.", ("Help!", "Rubber Soul")),
        ("SIBLING", "The names of the siblings of Ann Lee are Bo Lee.", ("Ann Lee", "Bo Lee")),
        ("PLACE_OF_BIRTH", "The place of birth of Ann Lee is St. Ives.", ("Ann Lee", "St. Ives")),
        ("MEMBER_OF_SPORTS_TEAM", "The name of the sports team which Bo is a member of is Ajax.", ("Bo", "Ajax")),
    ],
)
def test_subject_and_object_are_taken_from_the_sentence(tmp_path: Path, relation, sentence, expected) -> None:
    ((fact,), _) = read(tmp_path, "rippleedits", {"edit": {"prompt": sentence, "relation": relation}})
    assert (fact.subject, fact.target_new) == expected
    assert f"{fact.text} {fact.target_new}." == sentence


BIG = {
    "tag": "update",
    "subject": "ada hegerberg",
    "update": "For which club does Ada Hegerberg play?",
    "ans": "Lyon",
    "rephrase": "Whose player is she?",
    "personas": "Say, where does she play?",
    "loc": "Where does Caroline play?",
    "loc_ans": "Barcelona",
    "mhop": None,
    "mhop_ans": None,
}


def test_wikibigedit_s_files_in_the_order_of_time(tmp_path: Path) -> None:
    for day, answer in (("20240301", "Oslo"), ("20240201", "Lyon"), ("20240401", "")):
        (tmp_path / f"wiki_big_edit_{day}.json").write_text(json.dumps([{**BIG, "ans": answer}]))
    said: list[str] = []
    facts = load_facts("wikibigedit", str(tmp_path), tell=said.append)
    assert [(f.id, f.target_new) for f in facts] == [("0", "Lyon"), ("1", "Oslo")]
    assert (facts[0].subject, facts[0].prompt) == ("Ada Hegerberg", "For which club does {} play?")
    assert [(c.kind, c.answers) for c in facts[0].checks] == [("persona", ("Lyon",)), ("locality", ("Barcelona",))]
    assert (facts[0].relation, facts[0].paraphrase_prompts) == ("update", ("Whose player is she?",))
    assert "no answer" in said[0]
    ((hopped,), _) = read(tmp_path, "wikibigedit", {**BIG, "mhop": "In which town?", "mhop_ans": "Lyon"}, file="a.json")
    assert hopped.checks[1] == Check("In which town?", ("Lyon",), kind="multi_hop")


@pytest.mark.parametrize(
    ("name", "record", "named"),
    [
        ("zsre", {**ZSRE, "loc": 3}, "record 2: field 'loc' holds '3'"),
        ("zsre", {k: v for k, v in ZSRE.items() if k != "alt"}, "record 2: field 'alt' is missing; MEND's zsRE has"),
        ("zsre", {**ZSRE, "answers": "Serpens"}, "record 2: field 'answers' must be a list of texts"),
        ("knowedit", {**KNOWEDIT, "portability": {"Rumour": []}}, "'Rumour' is none of KnowEdit's criteria"),
        ("knowedit", {**KNOWEDIT, "locality": []}, "record 2: field 'locality' holds '[]'"),
        ("knowedit", {"question": "x", "ground_truth": "y"}, "field 'target_new' or 'labels' is missing"),
        ("mquake", {"case_id": 1, "requested_rewrite": [3]}, "requested_rewrite 1: an object is needed"),
        ("mquake", {**case(1, hop("A", "B", "a?"), answer="B"), "new_answer": None}, "field 'new_answer' is missing"),
        ("rippleedits", {"edit": {"prompt": "x"}}, "record 2, edit: field 'relation' is missing; RippleEdits has"),
        ("wikibigedit", {**BIG, "subject": ["Ada"]}, "record 2: field 'subject' holds"),
    ],
)
def test_the_first_bad_record_is_named_by_file_place_and_field(tmp_path: Path, name, record, named) -> None:
    with pytest.raises(EditDataError, match=r"data\.json, record 2") as caught:
        read(tmp_path, name, dict(DATASETS[name].sample), record)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("subject", "text", "expected"),
    [
        ("Ada", "Ada and Ada", ("{} and Ada", "Ada")),
        ("ada", "Is ADA in?", ("Is {} in?", "ADA")),
        ("Art", "In which Artois town does Art live?", ("In which Artois town does {} live?", "Art")),
        ("Art", "Is art in Artois?", ("Is {} in Artois?", "art")),  # a word in another case before a part of one
        ("Art", "Where is Artois?", ("Where is {}ois?", "Art")),
        ("Yahoo!", "Who owns Yahoo!?", ("Who owns {}?", "Yahoo!")),
        ("C", "Is C++ older than C?", ("Is C++ older than {}?", "C")),
        ("Ann", "Does Ann-Marie know Ann?", ("Does Ann-Marie know {}?", "Ann")),
        ("東京", "西東京市と東京の人口は", ("西{}市と東京の人口は", "東京")),
        ("İzmir", "Where is İzmirli?", ("Where is {}li?", "İzmir")),
        ("İstanbul", "in istanbul", None),
        ("Ada", "Bob", None),
        ("", "Bob", None),
        ("Ada", "Ada {}", None),
    ],
)
def test_a_subject_is_marked_where_it_stands(subject: str, text: str, expected: tuple[str, str] | None) -> None:
    assert with_place_for(subject, text) == expected


def test_attribute_snippets_beside_counterfact_become_reference_texts(tmp_path: Path) -> None:
    record = dict(DATASETS["counterfact"].sample)
    rewrite = {**record["requested_rewrite"], "target_new": {"str": "English", "id": "Q1860"}}
    snippets = [{"relation_id": "P103", "target_id": "Q1860", "samples": [{"text": "J. G. Ballard was English."}]}]
    (tmp_path / "attribute_snippets.json").write_text(json.dumps(snippets))
    ((fact,), _) = read(tmp_path, "counterfact", {**record, "requested_rewrite": rewrite, "generation_prompts": ["g"]})
    assert (fact.reference_texts, fact.generation_prompts) == (("J. G. Ballard was English.",), ("g",))


def test_a_split_or_a_file_of_a_hub_data_set(tmp_path: Path, monkeypatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *args, **kwargs: None)
    monkeypatch.setattr("datasets.load_dataset", lambda name: {"CF3k": [case(1, hop("A", "B", "a?"), answer="B")]})
    assert [f.id for f in load_facts("mquake")] == ["1.0"]
    with pytest.raises(EditDataError, match="has no split 'CF9k'; it has CF3k"):
        load_facts("mquake", "someone/mquake:CF9k")

    def fetch(name: str, file: str, repo_type: str) -> str:
        asked.append((name, file, repo_type))
        (tmp_path / "fetched.json").write_text(json.dumps([KNOWEDIT]))
        return str(tmp_path / "fetched.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert load_facts("knowedit")[0].subject == "Leo Arons"
    assert asked == [("zjunlp/KnowEdit", "benchmark/wiki_counterfact/test_cf.json", "dataset")]


def test_a_table_gives_the_facts_that_lines_give(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text(
        "id,subject,prompt,target_new,target_true,paraphrase_prompts,checks\n"
        '7,"Bell, Ada",{} was born in,Oslo,,Bell hails from,\n'
        '8,Bob,{} was born in,Rome,Oslo,"[""Bob hails from"", ""Bob is from""]",'
        '"[{""kind"": ""alias"", ""prompt"": ""B. was born in"", ""answers"": [""Rome""]}]"\n',
        encoding="utf-8",
    )
    first, second = load_facts("jsonl", str(tmp_path / "facts.csv"))
    assert first == Fact("Bell, Ada", "{} was born in", "Oslo", id="7", paraphrase_prompts=("Bell hails from",))
    assert second.paraphrase_prompts == ("Bob hails from", "Bob is from")
    assert second.checks == (Check("B. was born in", ("Rome",), kind="alias"),)


@pytest.mark.parametrize(
    ("name", "one", "both"),
    [
        ("facts.csv", "subject,prompt,target\nAda,{} is,x", "subject,prompt,target,target_new\nAda,{} is,x,y"),
        (
            "facts.jsonl",
            '{"subject": "Ada", "prompt": "{} is", "target": "x"}',
            '{"subject": "Ada", "prompt": "{} is", "target": "x", "target_new": "y"}',
        ),
    ],
)
def test_a_target_is_the_new_object_unless_both_are_there(tmp_path: Path, name: str, one: str, both: str) -> None:
    file = tmp_path / name
    file.write_text(one, encoding="utf-8")
    assert load_facts("jsonl", str(file)) == [Fact("Ada", "{} is", "x", id="1")]
    file.write_text(both, encoding="utf-8")
    with pytest.raises(EditDataError, match=r"unknown field\(s\) 'target'"):
        load_facts("jsonl", str(file))


SOUND = {
    "subject": "Ada",
    "prompt": "{} is",
    "target_new": "x",
    "checks": [{"kind": "alias", "prompt": "p", "answers": ["a"]}],
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"id": 3},
        {"id": None},
        {"id": True},
        {"subject": "\u00a0"},
        {"subject": "A\x07"},
        {"subject": "A\tb\n"},
        {"prompt": "is"},
        {"prompt": "{}\n{}"},
        {"prompt": "\n{} \n"},
        {"target_new": 3},
        {"target_true": ""},
        {"target_true": None},
        {"relation": ""},
        {"relation": 1},
        {"paraphrase_prompts": []},
        {"paraphrase_prompts": [""]},
        {"neighborhood_prompts": "x"},
        {"generation_prompts": ["x"], "reference_texts": ["y"]},
        {"reference_texts": ["\ud800"]},
        {"note": "x"},
        {"checks": {}},
        {"checks": [{"kind": "alias", "prompt": "p"}]},
        {"checks": [{"prompt": "p", "answers": ["a"]}]},
        {"checks": [{"kind": "rumour", "prompt": "p", "answers": ["a"]}]},
        {"checks": [{"kind": "alias", "prompt": " ", "answers": ["a"]}]},
        {"checks": [{"kind": "alias", "prompt": "p", "answers": []}]},
        {"checks": [{"kind": "alias", "prompt": "p", "answers": ["a", ""]}]},
        {"checks": [{"kind": "alias", "prompt": "p", "answers": ["a"], "further": [["b"]], "group": "g"}]},
        {"checks": [{"kind": "alias", "prompt": "p", "answers": ["a"], "further": [[]]}]},
        {"checks": [{"kind": "alias", "prompt": "p", "answers": ["a"], "requires": ["1", 2]}]},
        {
            "checks": [
                {"kind": "alias", "prompt": "p", "answers": ["a"], "conditions": [{"prompt": "q", "answers": ["b"]}]}
            ]
        },
        {"checks": [{"kind": "alias", "prompt": "p", "answers": ["a"], "conditions": [{"prompt": "q"}]}]},
        {"checks": [{"kind": "alias", "prompt": "p", "answers": ["a"], "conditions": [{"kind": "alias"}]}]},
    ],
)
def test_the_schema_takes_what_the_reader_takes(tmp_path: Path, change: dict) -> None:
    schema = DATASETS["jsonl"].schema
    assert schema is not None
    record = {**SOUND, **change}
    try:
        read(tmp_path, "jsonl", record)
        taken = True
    except EditDataError:
        taken = False
    validator = jsonschema.Draft202012Validator(schema())
    assert validator.is_valid(record) == taken


def test_the_schema_is_printed_and_other_sets_have_none(capsys) -> None:
    catalogue.datasets("jsonl", schema=True)
    assert json.loads(capsys.readouterr().out)["required"] == ["subject", "prompt", "target_new"]
    with pytest.raises(ConfigError, match="'zsre' is another's, and has no schema here"):
        catalogue.datasets("zsre", schema=True)


def test_the_schema_needs_what_a_fact_needs_and_explains_every_field() -> None:
    schema = DATASETS["jsonl"].schema
    assert schema is not None
    published = schema()
    jsonschema.Draft202012Validator.check_schema(published)
    assert published["required"] == ["subject", "prompt", "target_new"]
    assert set(published["properties"]) == set(Fact.__slots__) - {"trimmed"}
    for part in (published, *published["$defs"].values()):
        assert all(field["description"] for field in part["properties"].values())


@needs_data
def test_the_real_zsre_is_read_but_for_records_without_a_new_object() -> None:
    said: list[str] = []
    facts = load_facts("zsre", str(SHARED / "zsre" / "zsre_mend_train-1k.json"), tell=said.append)
    assert len(facts) == 998
    assert said[0].startswith("2 records are left out: no new object")
    assert all(f.text.count(f.subject) and f.target_true and f.paraphrase_prompts for f in facts)
    assert {c.kind for f in facts for c in f.checks} == {"locality"}


@needs_data
def test_the_real_mquake_is_read_with_all_its_questions() -> None:
    said: list[str] = []
    file = SHARED / "mquake_hard" / "MQuAKE-hard.json"
    facts = load_facts("mquake", str(file), tell=said.append)
    assert said == ["1716 requests of the cases are 769 different facts; each is edited once."]
    questions = [(c.group, c.prompt) for f in facts for c in f.checks if c.kind == "multi_hop"]
    cases = json.loads(file.read_text())
    assert sorted(questions) == sorted((str(c["case_id"]), q.rstrip()) for c in cases for q in c["questions"])
    report = DataReport.of(facts)
    assert (report.conflicts, report.duplicates, report.unmet) == (2, 0, 0)
    # Every question's other facts come before it.
    place = {f.id: i for i, f in enumerate(facts)}
    assert all(place[r] < place[f.id] for f in facts for c in f.checks for r in c.requires)


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda f: f.name)
def test_every_recipe_names_what_there_is(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.edits.dataset in DATASETS
    for section in recipe.probes:
        build_probe(section.name, section.settings)
    editor_class(recipe.method.name)
