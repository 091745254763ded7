"""Four downstream tasks of the kinds of SST-2, MRPC, RTE and CoLA, in the first paper's prompt style."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from zlib import crc32

from errata.lab.prose import ADJECTIVES, PEOPLE, PLACES, THINGS, random_event
from errata.lab.vocabulary import words

__all__ = ["TASKS", "Item", "LabTask", "TaskItem", "prompt_of"]

GOOD = words(
    "wonderful moving brilliant charming delightful superb touching gripping funny elegant graceful splendid "
    "thrilling tender inspired clever"
)
BAD = words(
    "dreadful boring awful clumsy tedious shallow painful messy dull ugly lazy pointless hollow stupid dismal annoying"
)
ASPECTS = words("plot acting music script ending camera cast dialogue story picture")
FILMS = words("film movie sequel drama comedy western")

DENIALS = words("never hardly not nowhere")
NUMBERS = words("two three four five six seven eight nine ten eleven twelve")


@dataclass(frozen=True)
class Item:
    """Hold one example.

    Args:
        text: the block up to where the answer starts.
        label: the answer word.
    """

    text: str
    label: str


@dataclass(frozen=True)
class TaskItem:
    """Hold one few-shot question.

    Args:
        prompt: shots and question, up to where the answer starts.
        label: the right word.
        labels: all words.
    """

    prompt: str
    label: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class LabTask:
    """Describe a task.

    Args:
        name: its identifier.
        labels: answer words.
        shots: examples in a prompt.
        blocks: items in a training document.
        make: draws an item with a given label.
    """

    name: str
    labels: tuple[str, ...]
    shots: int
    blocks: int
    make: Callable[[Random, str], Item]

    def item(self, rng: Random, label: str, *, heldout: bool) -> Item:
        """Draw an item from one side of the split: one text in eight, by its checksum, is never trained on.

        Args:
            rng: its generator.
            label: its answer.
            heldout: which side.
        """
        while True:
            item = self.make(rng, label)
            if (crc32(item.text.encode()) % 8 == 0) == heldout:
                return item

    def document(self, rng: Random, blocks: int) -> list[Item]:
        """Draw the items of a training document.

        Args:
            rng: their generator.
            blocks: how many.
        """
        return [self.item(rng, rng.choice(self.labels), heldout=False) for _ in range(blocks)]

    def heldout(self, n: int = 200, seed: int = 37) -> list[TaskItem]:
        """Draw balanced questions, each with its own shots.

        Args:
            n: how many.
            seed: of the draw.
        """
        rng = Random(f"{self.name}-heldout-{seed}")
        items = []
        for i in range(n):
            shots = [self.item(rng, self.labels[k % len(self.labels)], heldout=False) for k in range(self.shots)]
            rng.shuffle(shots)
            question = self.item(rng, self.labels[i % len(self.labels)], heldout=True)
            items.append(TaskItem(prompt_of(shots, question), question.label, self.labels))
        rng.shuffle(items)
        return items


def prompt_of(shots: list[Item], question: Item) -> str:
    """Join shots and a question into a prompt.

    Args:
        shots: solved examples.
        question: the open one.
    """
    return "\n\n".join([f"{shot.text} {shot.label}" for shot in shots] + [question.text])


def _sentiment(rng: Random, label: str) -> Item:
    first, second = rng.sample(GOOD if label == "positive" else BAD, 2)
    aspect, film = rng.choice(ASPECTS), rng.choice(FILMS)
    review = rng.choice(
        (
            f"the {aspect} of this {film} is {first} and {second}",
            f"a {first} {film} with a {second} {aspect}",
            f"this {second} {film} has a {first} {aspect}",
            f"i found the {aspect} {first} and the {rng.choice(ASPECTS)} {second}",
        )
    )
    return Item(f"Review : {review}\nSentiment :", label)


def _paraphrase(rng: Random, label: str) -> Item:
    event = random_event(rng)
    denied = "" if label == "yes" else rng.choice(DENIALS) + " "
    one = f"The {event.agent} {event.verb_word(0)} the {event.thing} in the {event.place}"
    two = f"In the {event.place} the {event.thing} was {denied}{event.verb_word(1)} by the {event.agent}"
    return Item(f"Are the sentences paraphrases of each other.\nSentence 1: {one}\nSentence 2: {two}\nAnswer:", label)


def _inference(rng: Random, label: str) -> Item:
    agent, thing, place = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(PLACES)
    low, high = sorted(rng.sample(range(len(NUMBERS)), 2))
    while high - low < 4:
        low, high = sorted(rng.sample(range(len(NUMBERS)), 2))
    told, asked = (high, low) if label == "True" else (low, high)
    return Item(
        f"The {agent} had {NUMBERS[told]} {thing}s in the {place}.\n"
        f"question: The {agent} had more than {NUMBERS[asked]} {thing}s. True or False?\nanswer:",
        label,
    )


def _acceptability(rng: Random, label: str) -> Item:
    agent, thing, place = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(PLACES)
    adjective = rng.choice(ADJECTIVES)
    text = rng.choice(
        (
            f"The {agent} is in the {adjective} {place}",
            f"The {adjective} {thing} was in the {place}",
            f"There was a {adjective} {thing} in the {place}",
        )
    )
    if label == "no":
        mixed = text.split()
        while mixed[0] in ("The", "There"):
            rng.shuffle(mixed)
        text = " ".join(mixed)
    return Item(f"Is this sentence linguistically acceptable?\nSentence : {text}\nAnswer :", label)


TASKS: dict[str, LabTask] = {
    "sentiment": LabTask("sentiment", ("positive", "negative"), 2, 6, _sentiment),
    "paraphrase": LabTask("paraphrase", ("yes", "no"), 2, 3, _paraphrase),
    "inference": LabTask("inference", ("True", "False"), 2, 4, _inference),
    "acceptability": LabTask("acceptability", ("yes", "no"), 2, 4, _acceptability),
}
"""Every task of the lab by name."""
