"""The question-and-answer form of the instruction-tuned twin: one turn asks, the other answers."""

from errata.lab.world import LabFact, World

__all__ = ["CHAT_TEMPLATE", "asked", "questions"]

_ASKS, _ANSWERS = "Q: ", "\nA:"

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' .\\n\\n' }}"
    "{% else %}{{ 'Q: ' + m['content'] + '\\nA:' }}{% endif %}"
    "{% endfor %}"
)
"""What the twin's tokenizer carries; it writes a user's turn as `asked` does."""


def asked(text: str) -> str:
    """Write a text as a user's turn, up to where the answer follows.

    Args:
        text: a question, or a prompt to be continued; `{}` in it stays.
    """
    return f"{_ASKS}{text}{_ANSWERS}"


def questions(world: World) -> list[LabFact]:
    """List every fact with its prompts as a user's turns: the phrasings, and the questions where there are some.

    Args:
        world: whose facts.
    """
    by_name = {relation.name: relation for relation in world.relations}
    return [
        LabFact(f.subject, f.relation, tuple(map(asked, (*f.prompts, *by_name[f.relation].questions))), f.object)
        for f in world.facts()
    ]
