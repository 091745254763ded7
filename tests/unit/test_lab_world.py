"""The synthetic world: the same from the same seed, with shared objects and well-formed edits."""

from random import Random

from errata.edits import Fact
from errata.lab.corpus import plain_documents
from errata.lab.world import build_world


def test_a_world_is_its_seed() -> None:
    assert build_world(60, 3).truth == build_world(60, 3).truth
    assert build_world(60, 3).truth != build_world(60, 4).truth


def test_names_have_two_words_and_share_them() -> None:
    people = build_world(300, 1).people
    assert len(set(people)) == 300
    assert all(len(person.split()) == 2 for person in people)
    assert len({person.split()[1] for person in people}) < 100


def test_every_fact_has_four_phrasings_with_one_subject() -> None:
    world = build_world(20, 1)
    assert len(world.relations) >= 8
    assert len(world.facts()) == 20 * len(world.relations)
    for fact in world.facts():
        assert len(fact.prompts) >= 4
        assert all(prompt.count("{}") == 1 for prompt in fact.prompts)


def test_no_word_is_an_object_of_two_relations() -> None:
    world = build_world(20, 1)
    words = [word for relation in world.relations for word in relation.objects]
    assert len(words) == len(set(words))
    assert len({len(relation.objects) for relation in world.relations}) == 1


def test_edits_are_counterfactual_and_have_neighbors() -> None:
    world = build_world(120, 1)
    records = world.edits(100, seed=5)
    assert records == world.edits(100, seed=5)
    assert len({record["subject"] for record in records}) == 100
    for record in records:
        fact = Fact.from_mapping(record, record["id"])
        assert world.truth[fact.subject, fact.relation] == fact.target_true != fact.target_new
        assert len(fact.paraphrase_prompts) == 3
        assert fact.neighborhood_prompts
        assert all(fact.subject not in prompt for prompt in fact.neighborhood_prompts)
        for prompt in fact.neighborhood_prompts:
            other = next(person for person in world.people if person in prompt)
            assert world.truth[other, fact.relation] == fact.target_true


def test_subjects_come_again_only_when_all_were_used() -> None:
    world = build_world(10, 1)
    records = world.edits(10 * len(world.relations) + 5, seed=0)
    assert len(records) == 10 * len(world.relations)
    assert len({(record["subject"], record["relation"]) for record in records}) == len(records)
    assert len({record["subject"] for record in records[:10]}) == 10


def test_heldout_text_names_nobody_and_statistics_text_does() -> None:
    world = build_world(30, 1)
    assert not any(person in line for line in world.heldout_text(50) for person in world.people)
    assert any(person in line for line in world.statistics_text(20) for person in world.people)


def test_documents_depend_on_the_generator_alone() -> None:
    world = build_world(30, 1)
    assert plain_documents(world, Random(2), 10) == plain_documents(world, Random(2), 10)
