"""Relations: which one a prompt asks for, and in which other words."""

import re

import pytest

from errata.editors.strength import calibration_facts
from errata.edits import Fact
from errata.edits.relations import relation_of, relations, rewordings, taught_in_other_words

KNOWN = relations()


def fact(prompt: str, target: str = "Oslo", **more) -> Fact:
    return Fact(subject="Ada Abend", prompt=prompt, target_new=target, **more)


@pytest.mark.parametrize(
    ("prompt", "target", "relation"),
    [
        ("{} was born in", "Oslo", "place of birth"),
        ("{} was born in", "1956", "year of birth"),
        ("The city where {} died in exile, far from where she was born, is", "Oslo", "place of death"),
        ("{} is the capital of", "Peru", "country of a capital"),
        ("The capital of {} is", "Lima", "capital"),
        ("The capital gains of {} are taxed by", "Peru", None),
        ("{} was founded by", "Ada Lovelace", "founder"),
        ("{} was founded in", "1956", "year of foundation"),
        ("{} was founded in", "Norway", "place of foundation"),
        ("{} WORKS AS A", "baker", "occupation"),
        ("{} networks as a", "baker", None),
        ("{} comes from", "Peru", "country of a work or product"),
        ("What {} took from him was", "Peru", None),
        ("{} ended in", "Peru", None),
        ("{} is a village in", "Peru", "location"),
        ("{} is the birthplace of", "Mozart", None),
        ("The birthplace of {} is", "Salzburg", "place of birth"),
        ("{} is the headquarters of", "Acme", None),
        ("{} is the author of", "Emma", None),
        ("{} works as a teacher in", "Rome", None),
        ("{} plays the sport of", "tennis", "sport"),
        ("{} lies on the continent of", "Asia", "continent"),
        ("{} holds the position of", "mayor", "office"),
        ("{} likes", "Peru", None),
    ],
)
def test_the_first_relation_with_a_cue_in_the_prompt_is_the_one(prompt, target, relation) -> None:
    found = relation_of(fact(prompt, target), KNOWN)
    assert (found and found.name) == relation


def test_of_well_known_facts_nearly_all_have_a_relation() -> None:
    found = {f.text: relation_of(f, KNOWN) for f in calibration_facts()}
    assert [text for text, relation in found.items() if relation is None] == ["The Second World War ended in"]


def test_every_wording_has_one_place_for_the_subject_and_no_cue_is_of_two_relations() -> None:
    wordings = [wording for relation in KNOWN for wording in relation.wordings]
    assert all(wording.count("{}") == 1 and not wording.endswith(" ") for wording in wordings)
    cues = [(cue, relation.objects) for relation in KNOWN for cue in relation.cues]
    assert len(set(cues)) == len(cues)
    assert all(len(relation.wordings) >= 4 for relation in KNOWN)


def test_wordings_are_in_the_tense_of_the_prompt_and_leave_the_prompt_itself_out() -> None:
    past, present = (rewordings(fact(prompt), KNOWN) for prompt in ("{} worked as a", "{} works as a"))
    assert "The occupation of Ada Abend is" in present
    assert "Ada Abend works as a" not in present
    assert all(re.search(r"\b(is|makes)\b", text) for text in present)
    was = rewordings(fact("The occupation of {} was"), KNOWN)
    assert "Ada Abend worked as a" in was
    assert "The occupation of Ada Abend was" not in was
    assert len(past) == len(present) == len(was) == 4


def test_what_is_measured_takes_no_part_in_teaching() -> None:
    own = fact("{} worked as a", paraphrase_prompts=("Ada Abend made a living as a",))
    (taught,) = taught_in_other_words([own], 9)
    assert taught.paraphrase_prompts == own.paraphrase_prompts
    assert len(taught.teaching_prompts) == 3
    assert own.paraphrase_prompts[0] not in taught.teaching_prompts
    (bare,) = taught_in_other_words([fact("{} worked as a")], 3)
    assert len(bare.teaching_prompts) == 3
    assert len(bare.paraphrase_prompts) == 1
    assert not set(bare.teaching_prompts) & set(bare.paraphrase_prompts)


def test_teaching_twice_adds_nothing() -> None:
    once = taught_in_other_words([fact("{} worked as a", paraphrase_prompts=("By day Ada Abend was a",))], 2)
    assert taught_in_other_words(once, 2) == once
    assert taught_in_other_words([fact("{} likes")], 2) == [fact("{} likes")]
    assert taught_in_other_words([fact("{} worked as a")], 0)[0].teaching_prompts == ()
