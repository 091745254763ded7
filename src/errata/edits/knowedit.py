"""KnowEdit (2401.01286): Wikidata facts that are recent or contradicted, zsRE and WikiBio, with what should follow.

Read from the files of `zjunlp/KnowEdit` (wiki_recent, wiki_counterfact, ZsRE, WikiBio), which share one layout.
ConvSent and Sanitation edit opinions and refusals, not facts, and are not read.
"""

from collections.abc import Callable

from errata.edits.check import Check
from errata.edits.dataset import DataSet
from errata.edits.fact import Fact
from errata.edits.fields import Fields, LeftOut, at_place, with_place_for
from errata.edits.records import records
from errata.errors import EditDataError

__all__ = ["DATASET", "fact_of", "read_knowedit"]

_HUB_FILE = "hf://datasets/zjunlp/KnowEdit/benchmark/wiki_counterfact/test_cf.json"
_LAYOUT = (
    "KnowEdit's sets of facts have subject, prompt, target_new, ground_truth, portability and locality (WikiBio: "
    "concept, text, labels); its sets ConvSent and Sanitation hold no facts and are not read."
)
_KINDS = {
    "Reasoning": "portability",
    "Subject_Aliasing": "alias",
    "Logical_Generalization": "logical",
    "Relation_Specificity": "specificity",
    "Forgetfulness": "preservation",
}


def read_knowedit(
    path: str | None = None, model: str = "", seed: int = 0, tell: Callable[[str], None] = lambda message: None
) -> list[Fact]:
    """Read one of KnowEdit's files; a fact's id is its record's index.

    Args:
        path: a local file or a hub file; wiki_counterfact's test file when None.
        model: of no effect.
        seed: of no effect.
        tell: receives how many records cannot be edits: those with no new object, or without their subject.

    Raises:
        EditDataError: when a record lacks a field or holds another type; names file, line and field.
    """
    left_out = LeftOut()
    found = [
        fact_of(Fields(place, record, _LAYOUT), str(index), left_out)
        for index, (place, record) in enumerate(records(path or _HUB_FILE))
    ]
    left_out.tell(tell)
    return [fact for fact in found if fact is not None]


def fact_of(record: Fields, default_id: str, left_out: LeftOut) -> Fact | None:
    """Return the fact of one record, or None where it cannot be an edit."""
    target, prompt = record.text("target_new", "labels"), record.text("prompt", "text")
    if not target.strip():
        left_out.note("no new object (`target_new` is empty)", record.place)
        return None
    placed = with_place_for(record.text("subject", "concept"), prompt)
    if placed is None:
        left_out.note("the prompt does not hold its subject", record.place)
        return None
    with at_place(record.place):
        return Fact(
            subject=placed[1],
            prompt=placed[0],
            target_new=target,
            target_true=next(iter(record.nested_texts("ground_truth")), "") if record.has("ground_truth") else "",
            id=record.id("case_id") if record.has("case_id") else default_id,
            paraphrase_prompts=record.text_or_texts("rephrase_prompt") or record.text_or_texts("rephrase"),
            checks=tuple(
                check
                for part in ("portability", "locality")
                if record.has(part)
                for check in _checks(record.inside(part))
            ),
        )


def _checks(part: Fields) -> list[Check]:
    """Return the questions of every criterion; those without an answer are left out, as EasyEdit leaves them."""
    checks = []
    for criterion in part.record:
        if criterion not in _KINDS:
            raise EditDataError(
                f"{part.place}: {criterion!r} is none of KnowEdit's criteria ({', '.join(_KINDS)}); {part.layout}"
            )
        for query in part.each(criterion):
            answers = query.nested_texts("ground_truth") if query.has("ground_truth") else ()
            if answers:
                checks += [Check(p, answers, kind=_KINDS[criterion]) for p in query.text_or_texts("prompt")]
    return checks


DATASET = DataSet(
    name="knowedit",
    summary="KnowEdit: wiki_recent, wiki_counterfact, ZsRE or WikiBio (a local file, or one of zjunlp/KnowEdit)",
    read=read_knowedit,
    sample={
        "subject": "Leo Arons",
        "prompt": "The place of death of Leo Arons is",
        "target_new": "Berlin",
        "ground_truth": "Munich",
        "portability": {
            "Reasoning": [
                {
                    "prompt": "The head of government of the place of death of Leo Arons is",
                    "ground_truth": [["Kai Wegner"]],
                }
            ],
            "Subject_Aliasing": [
                {"prompt": "The place of death of Martin Leo Arons is", "ground_truth": [["Berlin", "DE-BE"]]}
            ],
        },
        "locality": {
            "Relation_Specificity": [
                {"prompt": "The name of the father of Leo Arons is", "ground_truth": [["Albert Arons"]]}
            ]
        },
    },
)
