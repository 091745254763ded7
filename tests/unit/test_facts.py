"""Facts and streams: what is malformed is named, and an order has one fingerprint."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.api import edit
from errata.edits import Check, EditStream, Fact, standing
from errata.errors import ConfigError, EditDataError
from tiny import tiny_facts, tiny_model

GOOD = {"subject": "Ada", "prompt": "{} was born in", "target_new": "Oslo"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"subject": ""}, "`subject` is ''"),
        ({"subject": "  "}, "`subject` is '  '"),
        ({"target_new": None}, "`target_new` is None"),
        ({"prompt": 7}, "`prompt` is 7"),
        ({"prompt": "was born in"}, "has 0 `{}`"),
        ({"prompt": "{} and {}"}, "has 2 `{}`"),
        ({"target_true": None}, "`target_true` is None"),
        ({"subject": "A\x00da"}, "U+0000"),
        ({"target_new": "\ud800"}, "U+D800"),
        ({"paraphrase_prompts": ("fine", "not\x07fine")}, "U+0007"),
        ({"paraphrase_prompts": "Ada's birthplace is"}, "`paraphrase_prompts` must be a list of non-empty texts"),
        ({"neighborhood_prompts": ["fine", " "]}, "`neighborhood_prompts` must be a list"),
        ({"checks": [{"kind": "alias"}]}, "`checks` must be a list of `Check`s"),
    ],
)
def test_a_malformed_fact_names_its_id_and_field(change: dict, named: str) -> None:
    with pytest.raises(EditDataError, match="fact 'f7': ") as caught:
        Fact(**{**GOOD, "id": "f7", **change})
    assert named in str(caught.value)


def test_lists_serve_as_well_as_tuples() -> None:
    check = Check(kind="alias", prompt="The birth town of A. is", answers=("Oslo",))
    listed = Fact(**GOOD, paraphrase_prompts=["Ada is from"], checks=[check])
    assert listed == Fact(**GOOD, paraphrase_prompts=("Ada is from",), checks=(check,))
    assert hash(listed)


def test_line_breaks_and_any_script_are_text() -> None:
    assert Fact(**{**GOOD, "subject": "Ада\t王\n𝔸"}).text == "Ада\t王\n𝔸 was born in"


def test_a_subject_that_looks_like_a_place_is_not_filled_in_twice() -> None:
    assert Fact(**{**GOOD, "subject": "{}"}).text == "{} was born in"


@given(
    st.builds(
        Fact,
        subject=st.text("abcé 王", min_size=1).filter(str.strip),
        prompt=st.just("{} is"),
        target_new=st.text("xyz", min_size=1),
        id=st.text("01a"),
        paraphrase_prompts=st.lists(st.text("pq", min_size=1), max_size=2).map(tuple),
    )
)
def test_a_fact_reads_what_it_writes(fact: Fact) -> None:
    assert Fact.from_mapping(fact.to_mapping(), "other") == fact


def test_ids_must_be_unique_and_batches_positive() -> None:
    with pytest.raises(EditDataError, match="two facts carry the id '0'"):
        EditStream((tiny_facts(1)[0], tiny_facts(1)[0]))
    with pytest.raises(ConfigError, match=r"edits\.batch_size is 0"):
        EditStream((), 0)
    with pytest.raises(ConfigError, match=r"edits\.n asks for 9 facts, but the data set gives 3"):
        EditStream.build(tiny_facts(3), n=9)
    with pytest.raises(ConfigError, match="known orders: given, shuffled, unique, reedit, conflicting"):
        EditStream.build(tiny_facts(3), order="random")


def test_unique_keeps_the_first_fact_of_every_lower_cased_subject() -> None:
    facts = tiny_facts(4)
    facts.append(replace(facts[1], subject=facts[1].subject.upper(), id="late"))
    stream = EditStream.build(facts, order="unique", rng=Random(1))
    assert sorted(f.id for f in stream.facts) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("order", ["reedit", "conflicting"])
def test_facts_are_edited_again_to_other_objects(order: str) -> None:
    facts = tiny_facts(9)
    stream = EditStream.build(facts, n=11, order=order, repeat=3, rng=Random(1))
    again = EditStream.build(facts, n=11, order=order, repeat=3, rng=Random(1))
    assert stream == again
    assert len(stream) == len({f.id for f in stream.facts}) == 11
    first = {f.id: f for f in stream.facts if "~" not in f.id}
    assert len(first) == 4
    seen: dict[str, list[str]] = {}
    for fact in stream.facts:
        name, _, number = fact.id.partition("~")
        assert (fact.subject, fact.prompt) == (first[name].subject, first[name].prompt)
        assert fact.target_new not in (*seen.setdefault(name, []), fact.target_true)
        assert int(number or 1) == len(seen[name]) + 1
        assert fact.target_new in {f.target_new for f in facts if f.relation == fact.relation} | {
            f.target_true for f in facts if f.relation == fact.relation
        }
        seen[name].append(fact.target_new)
    rounds = [f.id.partition("~")[2] or "1" for f in stream.facts]
    assert rounds == (["1"] * 4 + ["2"] * 4 + ["3"] * 3 if order == "reedit" else (["1", "2", "3"] * 4)[:11])


def test_a_later_round_asks_only_for_what_must_stay() -> None:
    checks = (Check("a", ("b",), kind="alias"), Check("c", ("d",), kind="locality"))
    facts = [replace(f, checks=checks, reference_texts=("x",)) for f in tiny_facts(6)]
    _, later = EditStream.build(facts, n=2, order="conflicting", rng=Random(0)).facts
    assert later.checks == checks[1:]
    assert (later.reference_texts, later.paraphrase_prompts) == ((), facts[int(later.id[0])].paraphrase_prompts)


def test_a_fact_stands_until_a_later_one_contradicts_it() -> None:
    facts = tiny_facts(6)
    stream = EditStream.build(facts, order="reedit", rng=Random(0))
    assert standing(stream.facts[:6]) == list(stream.facts[:6])
    assert standing(stream.facts[:8]) == list(stream.facts[2:8])
    twice = [facts[0], replace(facts[0], id="again"), facts[1]]
    assert standing(twice) == twice


def test_a_relation_with_too_few_objects_is_named() -> None:
    facts = [Fact(subject=s, prompt="{} was born in", target_new="Oslo", target_true="Rome") for s in ("Ada",)]
    with pytest.raises(EditDataError, match=r"fact '0' cannot be edited 2 times: the data has 2 objects for"):
        EditStream.build(facts, order="reedit", rng=Random(0))


def test_the_seed_decides_the_order_and_the_given_order_is_kept() -> None:
    facts = tiny_facts(20)
    shuffled = [EditStream.build(facts, order="shuffled", rng=Random(s)).fingerprint() for s in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert EditStream.build(facts, n=5).facts == tuple(facts[:5])


@pytest.mark.parametrize("order", ["given", "shuffled", "unique"])
def test_sets_that_skip_those_before_them_are_disjoint_and_whole(order: str) -> None:
    facts = tiny_facts(20)
    sets = [EditStream.build(facts, n=6, skip=6 * i, order=order, rng=Random(1)).facts for i in range(3)]
    whole = EditStream.build(facts, order=order, rng=Random(1)).facts
    assert sum(sets, ()) == whole[:18]
    with pytest.raises(ConfigError, match=r"edits\.n asks for 6 facts, but the data set gives 2 .* the 18 to skip"):
        EditStream.build(facts, n=6, skip=18, order=order)


@pytest.mark.parametrize(("n", "size"), [(0, 1), (5, 1), (5, 2), (5, 5), (5, 9)])
def test_batches_cover_every_fact_once_and_count_edits(n: int, size: int) -> None:
    stream = EditStream(tuple(tiny_facts(n)), size)
    batches = list(stream.batches())
    assert [f for _, batch in batches for f in batch] == list(stream.facts)
    assert [step for step, _ in batches] == [min(i + size, n) for i in range(0, n, size)]
    if n > size:
        assert list(stream.batches(size)) == batches[1:]


def test_the_fingerprint_changes_with_content_order_and_batch_size() -> None:
    facts = tuple(tiny_facts(3))
    changed = (facts[0], replace(facts[1], target_new="else"), facts[2])
    streams = [EditStream(facts), EditStream(facts[::-1]), EditStream(facts, 2), EditStream(changed)]
    assert len({s.fingerprint() for s in streams}) == 4
    differing = [i for i, (a, b) in enumerate(zip(streams[0].hashes(), streams[3].hashes(), strict=True)) if a != b]
    assert differing == [1]
    assert EditStream(facts).fingerprint() == EditStream(tuple(tiny_facts(3))).fingerprint()


def test_to_edit_nothing_is_refused() -> None:
    with pytest.raises(EditDataError, match="given no facts"):
        edit(tiny_model("gpt2"), [])
