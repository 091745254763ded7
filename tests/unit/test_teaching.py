"""A fact taught in other words: some paraphrases take part in optimising the value, the others measure."""

from dataclasses import replace

from errata.editors.value_prompts import FactPrompts, portions
from errata.edits import EditStream, Fact
from errata.studies.recipe import load_recipe
from errata.studies.session import open_session
from tiny import tiny_model

FACT = Fact(
    subject="Stone",
    prompt="{} lies in",
    target_new="morning",
    paraphrase_prompts=("The place of Stone is", "One finds Stone in", "Where is Stone? In"),
)


def test_one_paraphrase_at_least_is_left_to_measure_and_doing_it_again_changes_nothing() -> None:
    two = FACT.taught_by(2)
    assert two.teaching_prompts == FACT.paraphrase_prompts[:2]
    assert two.paraphrase_prompts == FACT.paraphrase_prompts[2:]
    assert two.taught_by(2) == two
    assert len(FACT.taught_by(9).paraphrase_prompts) == 1
    assert FACT.taught_by(0) == FACT
    assert Fact.from_mapping(two.to_mapping(), "0") == two


def test_a_teaching_prompt_is_one_more_prompt_with_the_change_at_its_own_subject() -> None:
    model = tiny_model("gpt2")
    plain = FactPrompts.of(model, FACT, ["{}", "Then. {}"], False, "subject_last")
    taught = FactPrompts.of(model, FACT.taught_by(1), ["{}", "Then. {}"], False, "subject_last")
    assert len(taught.rows) == len(plain.rows) + 1
    row, start = taught.rows[2], taught.starts[2]
    ids, at = model.subject_last("The place of ", "Stone", " is")
    assert row[: len(ids)] == ids
    assert start == at
    assert len(taught.reads) == len(plain.reads) + len(taught.target)


def test_a_teaching_prompt_without_the_subject_is_left_out() -> None:
    model = tiny_model("gpt2")
    lost = Fact(**{**FACT.to_mapping(), "teaching_prompts": ("Where is it? In",), "paraphrase_prompts": ()})
    taught = FactPrompts.of(model, lost, ["{}"], False, "subject_last")
    assert len(taught.rows) == 2


def test_facts_with_more_and_fewer_prompts_are_never_optimised_in_one_portion() -> None:
    model = tiny_model("gpt2")
    tasks = [
        FactPrompts.of(model, fact, ["{}"], False, "subject_last")
        for fact in (FACT, FACT.taught_by(1), FACT, FACT.taught_by(2), FACT.taught_by(1))
    ]
    parts = list(portions(tasks, 10_000))
    assert sorted(i for part in parts for i in part) == list(range(5))
    assert all(len({len(tasks[i].rows) for i in part}) == 1 for part in parts)


def test_a_run_teaches_what_its_setting_says_and_measures_the_rest() -> None:
    model = tiny_model("gpt2")
    recipe = load_recipe({"model": {"name": "m"}, "method": {"name": "memit", "value": {"paraphrases": 2}}})
    session = open_session(recipe, model=model, stream=EditStream((FACT,)))
    (fact,) = session.stream.facts
    assert len(fact.teaching_prompts) == 2
    assert len(fact.paraphrase_prompts) == 1


def test_a_paraphrase_that_lacks_the_subject_is_left_to_measure() -> None:
    fact = replace(FACT, paraphrase_prompts=("Where does it lie? In", *FACT.paraphrase_prompts))
    taught = fact.taught_by(1)
    assert taught.teaching_prompts == ("The place of Stone is",)
    assert taught.paraphrase_prompts[0] == "Where does it lie? In"
