"""An ordered, fingerprinted stream of facts: what a sequential run edits, one batch after another."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from errata.edits.conflicts import edited_again
from errata.edits.fact import Fact
from errata.errors import ConfigError, EditDataError

__all__ = ["ORDERS", "EditStream", "standing"]

ORDERS = ("given", "shuffled", "unique", "reedit", "conflicting")
"""What `EditStream.build` can make of a data set."""


@dataclass(frozen=True)
class EditStream:
    """Hold the facts of a run in the order in which they will be edited.

    Args:
        facts: the facts, ids unique.
        batch_size: how many facts one update carries (b in the papers).
    """

    facts: tuple[Fact, ...]
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"edits.batch_size is {self.batch_size}, but at least 1 is needed.")
        seen: set[str] = set()
        for fact in self.facts:
            if fact.id in seen:
                raise EditDataError(
                    f"two facts carry the id {fact.id!r}; ids name edits in the journal and must be unique."
                )
            seen.add(fact.id)

    @classmethod
    def build(
        cls,
        facts: Sequence[Fact],
        *,
        n: int | None = None,
        skip: int = 0,
        batch_size: int = 1,
        order: str = "given",
        repeat: int = 2,
        rng: Random | None = None,
    ) -> "EditStream":
        """Choose and order facts.

        Args:
            facts: the whole data set, or a selection already ordered by an index file.
            n: how many to take; all when None.
            skip: how many to pass over at the beginning of the order, so that several runs edit disjoint sets.
            order: "given" keeps the order; "shuffled" permutes with `rng`; "unique" keeps the first fact of every
                lower-cased subject, then permutes, as the first paper samples CounterFact (2401.07453 §3). "reedit"
                takes such unique facts and edits all of them, then all again to another object; "conflicting" edits
                each again at once.
            repeat: how often "reedit" and "conflicting" edit the same subject and relation; n counts all edits.
            rng: the seeded generator of the permutation and of the other objects.

        Raises:
            ConfigError: when more facts are asked for than there are.
            EditDataError: when a relation has too few objects for so many edits of the same fact.
        """
        if order not in ORDERS:
            raise ConfigError(f"edits.order is {order!r}; known orders: {', '.join(ORDERS)}.")
        rng = rng or Random(0)
        chosen = list(facts)
        if order in ("unique", "reedit", "conflicting"):
            first: dict[str, Fact] = {}
            for fact in chosen:
                first.setdefault(fact.subject.lower(), fact)
            chosen = list(first.values())
        if order != "given":
            rng.shuffle(chosen)
        if order in ("reedit", "conflicting"):
            chosen, skip = chosen[skip:], 0
            taken = chosen if n is None else chosen[: -(-n // repeat)]
            rounds = edited_again(taken, facts, repeat, rng)
            in_turn = rounds if order == "reedit" else zip(*rounds, strict=True)
            chosen = [fact for part in in_turn for fact in part]
        chosen = chosen[skip:]
        if n is not None:
            if n > len(chosen):
                left_out = f" after the {skip} to skip" if skip else ""
                raise ConfigError(
                    f"edits.n asks for {n} facts, but the data set gives {len(chosen)} in order {order!r}{left_out}."
                )
            chosen = chosen[:n]
        return cls(tuple(chosen), batch_size)

    def __len__(self) -> int:
        return len(self.facts)

    def taught_by(self, paraphrases: int) -> "EditStream":
        """Return the stream with the first paraphrases of each fact as teaching prompts; see `Fact.taught_by`."""
        return replace(self, facts=tuple(fact.taught_by(paraphrases) for fact in self.facts)) if paraphrases else self

    def batches(self, start: int = 0) -> Iterator[tuple[int, tuple[Fact, ...]]]:
        """Yield (step after the batch, its facts) from edit number `start` on; the last batch may be short."""
        for i in range(start, len(self.facts), self.batch_size):
            batch = self.facts[i : i + self.batch_size]
            yield i + len(batch), batch

    def hashes(self) -> list[str]:
        """Return one short content hash a fact, so that a changed stream can name its first difference.

        Prompts and texts for generation are left out: what is edited and what is asked is the same without them, and
        a run begun before a reader carried them can be continued.
        """
        return [_hash(replace(fact, generation_prompts=(), reference_texts=())) for fact in self.facts]

    def fingerprint(self) -> str:
        """Return one hash over all facts, their order and the batch size."""
        return hashlib.sha256("\n".join([str(self.batch_size), *self.hashes()]).encode()).hexdigest()


def standing(facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts that no later one contradicts: those whose subject and prompt got no other object since."""
    latest = {(fact.subject.lower(), fact.prompt): fact.target_new.strip() for fact in facts}
    return [fact for fact in facts if latest[fact.subject.lower(), fact.prompt] == fact.target_new.strip()]


def _hash(fact: Fact) -> str:
    return hashlib.sha256(json.dumps(fact.to_mapping(), sort_keys=True).encode()).hexdigest()[:16]
