"""How well facts are recalled: the rows that proficiency and forgetting have in common."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from errata.edits import Fact
from errata.models import EditableModel
from errata.probes.rows import Row
from errata.probes.scoring import score

__all__ = ["KINDS", "Asked", "asked", "recall_rows"]

KINDS = ("efficacy", "paraphrase", "neighborhood")


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt of a fact: its kind, and which of the fact's prompts of that kind it is."""

    fact: Fact
    kind: str
    number: int
    prompt: str


def asked(facts: Sequence[Fact], kinds: Collection[str] = KINDS) -> list[Asked]:
    """Return the prompts of facts in their order; without a true object there is no neighborhood.

    Args:
        facts: what to ask.
        kinds: which kinds of prompt.
    """
    return [
        Asked(fact, kind, n, prompt)
        for fact in facts
        for kind, prompts in (
            ("efficacy", (fact.text,)),
            ("paraphrase", fact.paraphrase_prompts),
            ("neighborhood", fact.neighborhood_prompts if fact.target_true else ()),
        )
        if kind in kinds
        for n, prompt in enumerate(prompts)
    ]


def recall_rows(
    model: EditableModel, facts: Sequence[Fact], step: int, when: str, kinds: Collection[str] = KINDS
) -> Iterator[Row]:
    """Ask for facts and yield `{kind}.success@{when}` and `{kind}.exact@{when}`, two rows a prompt.

    Efficacy and paraphrase want the new object: success is P(new) > P(true), exact that all tokens of the new object
    are the argmax. Neighborhood wants the true object: success is P(true) > P(new), exact that the true object is the
    argmax (2401.07453 §3.1; probabilities are compared by their mean log per token, as in its code). Without a true
    object there is no success row, and no neighborhood. Success is not defined where both objects are the same: NaN.
    What a dead model answers is missing: NaN, neither 1 nor 0.

    Args:
        model: the model; read only.
        facts: what to ask.
        step: how many edits have been made.
        when: "now", "end", "base" or "retest".
        kinds: which kinds of prompt.
    """
    questions = asked(facts, kinds)
    pairs = [(q.prompt, q.fact.target_new) for q in questions]
    pairs += [(q.prompt, q.fact.target_true) for q in questions if q.fact.target_true]
    joins = [q.fact.join for q in questions]
    scores = score(model, pairs, joins + [q.fact.join for q in questions if q.fact.target_true])
    true = iter(scores[len(questions) :])
    for question, new in zip(questions, scores, strict=False):
        fact, kind = question.fact, question.kind
        old = next(true) if fact.target_true else None
        wanted, other = (old, new) if kind == "neighborhood" else (new, old)
        assert wanted is not None
        values = {}
        if other:
            values = {"success": math.nan if fact.same_object else _more_probable(wanted.logp, other.logp)}
        for metric, value in {**values, "exact": wanted.exact}.items():
            yield Row(
                step,
                f"{kind}.{metric}@{when}",
                value,
                edit_id=fact.id,
                prompt_id=f"{kind}:{question.number}",
                logp_new=new.logp,
                logp_true=old.logp if old else math.nan,
            )


def _more_probable(wanted: float, other: float) -> float:
    """Compare two mean log-probabilities; NaN where either is."""
    return math.nan if math.isnan(wanted) or math.isnan(other) else float(wanted > other)
