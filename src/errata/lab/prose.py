"""Plain sentences that say nothing about the people of the world: context, held-out text, task items."""

from dataclasses import dataclass
from random import Random

from errata.lab.vocabulary import words

__all__ = ["ADJECTIVES", "PEOPLE", "PLACES", "THINGS", "VERBS", "Event", "random_event", "restatement", "sentence"]

ADJECTIVES = words("old red small heavy bright wooden broken narrow golden round")
PEOPLE = words("boy girl king queen guard nurse clerk judge soldier monk")
THINGS = words("lamp chair basket ladder clock bottle carpet mirror letter coin")
PLACES = words("market garden kitchen forest harbour station castle tower")
TIMES = words("today yesterday again tonight early late slowly quickly")
VERBS = (
    ("carried", "transported"),
    ("found", "discovered"),
    ("bought", "purchased"),
    ("repaired", "fixed"),
    ("hid", "concealed"),
    ("sold", "traded"),
    ("cleaned", "washed"),
    ("watched", "observed"),
)


@dataclass(frozen=True)
class Event:
    """Hold the parts of one simple event.

    Args:
        agent: who acts.
        verb: an index into `VERBS`.
        adjective: how the thing is.
        thing: what is acted on.
        place: where.
    """

    agent: str
    verb: int
    adjective: str
    thing: str
    place: str

    def verb_word(self, synonym: int) -> str:
        """Give the verb (synonym: which of its two words)."""
        return VERBS[self.verb][synonym]

    def active(self, synonym: int = 0) -> str:
        """Tell the event in the active voice (synonym: which of the verb's two words)."""
        return f"The {self.agent} {VERBS[self.verb][synonym]} the {self.adjective} {self.thing} in the {self.place}"

    def passive(self, synonym: int = 0) -> str:
        """Tell the event in the passive voice (synonym: which of the verb's two words)."""
        verb = VERBS[self.verb][synonym]
        return f"In the {self.place} the {self.adjective} {self.thing} was {verb} by the {self.agent}"


def random_event(rng: Random) -> Event:
    """Draw an event (rng: its generator)."""
    return Event(
        rng.choice(PEOPLE),
        rng.randrange(len(VERBS)),
        rng.choice(ADJECTIVES),
        rng.choice(THINGS),
        rng.choice(PLACES),
    )


def restatement(rng: Random) -> str:
    """Tell one event twice, in both voices (rng: its generator)."""
    event = random_event(rng)
    told = [event.active(rng.randrange(2)), event.passive(rng.randrange(2))]
    rng.shuffle(told)
    return " . ".join(told) + " ."


def sentence(rng: Random) -> str:
    """Write one sentence of prose, ending in a full stop (rng: its generator)."""
    event = random_event(rng)
    kind = rng.randrange(3)
    if kind == 0:
        return event.active(rng.randrange(2)) + " ."
    if kind == 1:
        return event.passive(rng.randrange(2)) + " ."
    when = rng.choice(TIMES).capitalize()
    return f"{when} the {event.agent} {event.verb_word(0)} a {event.adjective} {event.thing} ."
