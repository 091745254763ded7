"""The downstream tasks: balanced, held out, and in the paper's form."""

from random import Random

import pytest

from errata.lab.tasks import TASKS
from errata.probes.tasks.classification import weighted_f1


@pytest.mark.parametrize("name", TASKS)
def test_heldout_items_are_balanced_and_fixed(name: str) -> None:
    items = TASKS[name].heldout(200)
    assert items == TASKS[name].heldout(200)
    assert all(sum(item.label == label for item in items) == 100 for label in TASKS[name].labels)


@pytest.mark.parametrize("name", TASKS)
def test_heldout_questions_are_never_in_training(name: str) -> None:
    task = TASKS[name]
    asked = {item.prompt.split("\n\n")[-1] for item in task.heldout(200)}
    rng = Random(0)
    trained = {item.text for _ in range(500) for item in task.document(rng, 3)}
    assert not asked & trained


def test_prompts_have_the_papers_form() -> None:
    assert TASKS["sentiment"].heldout(1)[0].prompt.endswith("\nSentiment :")
    assert "Are the sentences paraphrases of each other.\nSentence 1: " in TASKS["paraphrase"].heldout(1)[0].prompt
    assert TASKS["inference"].heldout(1)[0].prompt.endswith(" True or False?\nanswer:")
    assert TASKS["acceptability"].heldout(1)[0].prompt.endswith("\nAnswer :")


def test_weighted_f1_is_that_of_the_definition() -> None:
    assert weighted_f1(["yes", "no"], ["yes", "no"]) == 1.0
    # One class only: F1 of 2/3 on half of the items.
    assert weighted_f1(["yes", "yes", "no", "no"], ["yes"] * 4) == pytest.approx(1 / 3)
    # What is no label counts as wrong for the class it should have been.
    assert weighted_f1(["yes", "yes"], ["yes", "invalid"]) == pytest.approx(2 / 3)
