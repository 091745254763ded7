"""The questions by name."""

from errata.errors import ConfigError, did_you_mean
from errata.studies.questions import age, batches, bleeding, furthest, layers, order, tradeoff
from errata.studies.questions.question import Question

__all__ = ["QUESTIONS", "question"]

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION for module in (age, bleeding, order, batches, tradeoff, layers, furthest)
}
"""Every question by name."""


def question(name: str) -> Question:
    """Return the question called `name`.

    Raises:
        ConfigError: when there is none; names the nearest.
    """
    if name not in QUESTIONS:
        hint = did_you_mean(name, QUESTIONS)
        raise ConfigError(f"there is no question {name!r}; there are {', '.join(QUESTIONS)}.{hint}")
    return QUESTIONS[name]
