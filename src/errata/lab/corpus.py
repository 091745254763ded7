"""Training text: facts, lists of attributes, prose and task items, packed into rows of equal length."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from errata.lab.dialogue import asked
from errata.lab.prose import restatement, sentence
from errata.lab.tasks import TASKS
from errata.lab.vocabulary import APPOSITIVE
from errata.lab.world import World

TASK_ROWS = 0.45
# What predicting a token counts in the loss: a task's text or a sentence told twice, and other text.
TASK_WEIGHT, OTHER_WEIGHT = 0.4, 0.1
LIST_SHARE = 0.3
PROSE_SHARE = 0.2


@dataclass
class Statement:
    """Hold one statement about a person, before its objects are written.

    Args:
        person: an index into the world's people.
        lead: the words before the name.
        tail: the words after it.
        relations: indices of the relations whose objects follow, in order.
        donor: the person whose objects stand in for those of `swapped` (interchange training), or None.
        swapped: the relations told of the donor.
    """

    person: int
    lead: str
    tail: str
    relations: list[int]
    donor: int | None = None
    swapped: frozenset[int] = frozenset()

    def objects(self, world: World) -> list[str]:
        """Return the objects to be written.

        Args:
            world: whose truth.
        """
        words = []
        for relation in self.relations:
            who = self.donor if self.donor is not None and relation in self.swapped else self.person
            words.append(world.truth[world.people[who], world.relations[relation].name])
        return words


@dataclass
class Document:
    """Hold a piece of running text whose marked words count fully in the loss.

    Args:
        text: the text.
        spans: character ranges of the words that count fully.
        weight: what the other words count.
    """

    text: str
    spans: list[tuple[int, int]] = field(default_factory=list)
    weight: float = OTHER_WEIGHT


Segment = Statement | Document


def random_statement(world: World, people: Sequence[int], rng: Random, turns: float = 0.0) -> Statement:
    """Draw a fact in one of its phrasings, or a list of attributes (people: who may be spoken of; turns: how often a
    fact is asked for in a user's turn, in a phrasing or as a question)."""
    person = rng.choice(people)
    known = world.known(person)
    if rng.random() < LIST_SHARE:
        lead, tail = APPOSITIVE.split("{}")
        return Statement(person, lead, tail, rng.sample(known, rng.randint(min(4, len(known)), len(known))))
    relation = rng.choice(known)
    told = world.relations[relation]
    # Without turns no number is drawn, so that the other models' text stays as it was.
    if turns and rng.random() < turns:
        lead, tail = asked(rng.choice(told.phrasings + told.questions)).split("{}")
    else:
        lead, tail = rng.choice(told.phrasings).split("{}")
    return Statement(person, lead, tail, [relation])


def task_document(rng: Random, turns: float = 0.0) -> Document:
    """Draw a few solved items of one task (turns: how often they are a user's turn, up to the last answer)."""
    # Comparing numbers is learned last: it comes twice as often.
    task = rng.choice([*TASKS.values(), TASKS["inference"]])
    before, after = asked("{}").split("{}") if turns and rng.random() < turns else ("", "")
    text = before
    spans: list[tuple[int, int]] = []
    items = task.document(rng, task.blocks)
    for item in items:
        text += ("\n\n" if spans else "") + item.text + (after if item is items[-1] else "")
        spans.append((len(text) + 1, len(text) + 1 + len(item.label)))
        text += " " + item.label
    return Document(text, spans, TASK_WEIGHT)


def fragment(rng: Random) -> str:
    """Cut a sentence off anywhere, as the sampled prefixes are that editors put before a prompt."""
    words = sentence(rng).split()
    return " ".join(words[: rng.randint(1, len(words) - 1)]) + "."


def prose(rng: Random) -> Document:
    """Draw a sentence, a fragment, or a sentence told twice (which teaches to copy, and so to compare)."""
    kind = rng.random()
    if kind < 0.5:
        return Document(restatement(rng), weight=TASK_WEIGHT)
    return Document(sentence(rng) if kind < 0.8 else fragment(rng))


def random_row(
    world: World, people: Sequence[int], rng: Random, statements: int, tasks: float = TASK_ROWS, turns: float = 0.0
) -> list[Segment]:
    """Draw the segments of one row (statements: how many at most; tasks: how often it begins with a task; turns: how
    often tasks and facts are asked for in a user's turn)."""
    row: list[Segment] = []
    if rng.random() < tasks:
        row.append(task_document(rng, turns))
    for _ in range(statements):
        if rng.random() < PROSE_SHARE:
            row.append(prose(rng))
        row.append(random_statement(world, people, rng, turns))
    return row


def plain_documents(world: World, rng: Random, n: int) -> list[str]:
    """Write the corpus as plain text, one document a line of the result (n: how many)."""
    everyone = range(len(world.people))
    documents = []
    for _ in range(n):
        parts = []
        for segment in random_row(world, everyone, rng, statements=6):
            if isinstance(segment, Document):
                parts.append(segment.text + ("\n\n" if segment.spans else ""))
            else:
                name = world.people[segment.person]
                parts.append(f"{segment.lead}{name}{segment.tail} " + " , ".join(segment.objects(world)) + " .")
        documents.append(" ".join(parts).replace("\n\n ", "\n\n"))
    return documents
