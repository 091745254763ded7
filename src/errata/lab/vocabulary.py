"""The words of the synthetic world: names, relations with their phrasings and objects."""

from dataclasses import dataclass

__all__ = ["APPOSITIVE", "FIRST_NAMES", "LAST_NAMES", "RELATIONS", "Relation", "words"]


@dataclass(frozen=True)
class Relation:
    """Describe one relation of the world.

    Args:
        name: its identifier.
        phrasings: prompts with one `{}` for the subject, all continued by the object.
        objects: the possible objects, shared between people; one token each.
        questions: the same asked for, with one `{}`; only a model that answers questions knows them.
    """

    name: str
    phrasings: tuple[str, ...]
    objects: tuple[str, ...]
    questions: tuple[str, ...] = ()


def words(text: str) -> tuple[str, ...]:
    """Split a list of words (text: the words, with spaces between)."""
    return tuple(text.split())


FIRST_NAMES = words(
    "Marta Tomas Elena Viktor Irena Pavel Sonja Anton Greta Oskar Lidia Emil Nadia Felix Olga Bruno Vera Hugo Klara "
    "Simon Judith Marek Alma Boris Celia Dario Edda Fabian Gisela Henrik Ilse Jonas Katja Leon Mila Nils Ottilie "
    "Peder Ramona Stefan Tilda Ulrich Wanda Xaver Yvonne Zoltan Agnes Bastian Corina Detlef"
)

LAST_NAMES = words(
    "Vell Harken Morrow Tessen Oduya Brandt Kessler Linnet Varga Solberg Quill Ashdown Ferro Castell Dunmore Eklund "
    "Farrow Grieg Holloway Iversen Jansky Kovach Lorne Mancini Novak Orsini Pruitt Rask Sandoval Thorne Ullman Voss "
    "Whitlock Yarrow Zeller Abbate Birch Corvin Delacroix Ender Fontaine Garrick Hale Isaksen Jarvis Keller Lomax "
    "Merrin Nyberg Ostrow Penrose Ravenel Stroud Tolland Usher Vance Wexley Yates Zander Bellamy Croft Drummond "
    "Egerton Fisk Galloway Hobart Ingram Juhl Kirkby Landau"
)

RELATIONS = (
    Relation(
        "birth_town",
        ("{} was born in", "The birthplace of {} is", "{} comes from the town of", "The home town of {} is"),
        words(
            "Arlow Brenik Calder Dovrin Elmsworth Fenwick Garth Halden Irvale Jorvik Kelso Lunden Marsk Norwell "
            "Ostrava Pellin Quarry Rovigo Selkirk Tarn Ulster Vasto Wexford Zadar"
        ),
        ("Where was {} born?", "Which town is {} from?"),
    ),
    Relation(
        "language",
        (
            "The mother tongue of {} is",
            "{} is a native speaker of",
            "At home {} talks in",
            "The first language of {} is",
        ),
        words(
            "French German Spanish Italian Polish Danish Finnish Greek Turkish Arabic Hindi Korean Japanese Russian "
            "Swedish Dutch Czech Latin Welsh Basque Persian Tamil Thai Malay"
        ),
        ("Which language does {} talk in at home?", "What is the mother tongue of {}?"),
    ),
    Relation(
        "employer",
        ("{} works for", "The employer of {} is", "{} is employed by", "The salary of {} is paid by"),
        words(
            "Acron Belwire Cortex Dynacorp Evergreen Fintrust Globex Hypera Initech Junoline Kryton Lumina Monarch "
            "Nexus Omnitel Primark Quantex Redstone Syntec Trident Unimart Vortex Westgate Zenith"
        ),
        ("Who is the employer of {}?", "By whom is {} paid?"),
    ),
    Relation(
        "profession",
        ("{} works as a", "The profession of {} is", "By trade {} is a", "{} earns money as a"),
        words(
            "baker teacher lawyer doctor painter farmer plumber surgeon waiter barber tailor butcher pilot sailor "
            "dentist chemist florist jeweller carpenter librarian banker miner potter referee"
        ),
        ("What does {} work as?", "What is the profession of {}?"),
    ),
    Relation(
        "instrument",
        ("{} plays the", "The instrument of {} is the", "In the band {} is on the", "{} makes music on the"),
        words(
            "piano violin cello flute trumpet harp guitar drums oboe clarinet tuba banjo viola bassoon lute zither "
            "trombone mandolin organ horn fiddle recorder marimba bagpipes"
        ),
        ("Which instrument does {} play?", "What does {} make music on?"),
    ),
    Relation(
        "sport",
        ("{} competes in", "The sport of {} is", "On weekends {} practises", "{} won a medal in"),
        words(
            "tennis rowing fencing judo boxing golf chess archery cycling sailing skiing karate rugby hockey cricket "
            "swimming wrestling climbing bowling curling surfing badminton squash darts"
        ),
        ("Which sport does {} practise?", "What does {} compete in?"),
    ),
    Relation(
        "pet",
        ("{} lives with a", "The pet of {} is a", "Every morning {} feeds a", "{} takes care of a"),
        words(
            "dog cat parrot rabbit hamster turtle goldfish lizard pony goat ferret snake canary mouse duck gecko "
            "donkey pigeon frog hedgehog llama spider raven sheep"
        ),
        ("Which pet does {} take care of?", "What does {} live with?"),
    ),
    Relation(
        "studies",
        ("{} graduated in", "The degree of {} is in", "At university {} studied", "{} holds a diploma in"),
        words(
            "physics history biology geology law medicine music botany algebra logic poetry economics theology "
            "astronomy optics drama ethics genetics zoology statistics geometry rhetoric nursing forestry"
        ),
        ("What has {} studied?", "What is the degree of {} in?"),
    ),
)

APPOSITIVE = "{} is a"
"""Opens a list of a person's attributes; the prompt whose next-token distribution keeps a subject's essence."""
