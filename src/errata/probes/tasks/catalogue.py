"""Every downstream task by name: what it asks, how it is scored, and what it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from errata.errors import ConfigError, did_you_mean
from errata.lab.tasks import TASKS
from errata.probes.tasks.benchmarks import BENCHMARKS
from errata.probes.tasks.glue import GLUE_TASKS

__all__ = ["TaskInfo", "find_task", "task_catalogue"]

_F1 = "weighted F1 (f1); accuracy, invalid, item"
_ACCURACY = "accuracy; invalid, item"


@dataclass(frozen=True)
class TaskInfo:
    """Tell what a task is.

    Args:
        name: its name in metrics, `downstream.<name>.<metric>`.
        probe: which probe asks it.
        asks: the question in one line.
        answers: how the answer is given.
        metric: its figures, the main one first.
        chance: what guessing gives; None where it depends on the item and is in the rows.
        source: where items come from.
        needs: what must be installed or allowed; empty for nothing.
        sample: a prompt, where there is one without reading data.
    """

    name: str
    probe: str
    asks: str
    answers: str
    metric: str
    chance: float | None
    source: str
    needs: str = ""
    sample: str = ""


_LAB = {
    "sentiment": "Is a review of an invented film positive or negative? (after SST-2)",
    "paraphrase": "Do two sentences of the lab's world say the same? (after MRPC)",
    "inference": "Does a number follow from a sentence? (after RTE)",
    "acceptability": "Is a sentence of the lab's world well formed? (after CoLA)",
}
_GLUE = {
    "sst2": "Is a phrase of a film review positive or negative?",
    "mrpc": "Do two sentences of the news say the same?",
    "cola": "Is a sentence linguistically acceptable?",
    "rte": "Does the second text follow from the first?",
    "nli": "Does the second text follow from the first? RTE's training part, asked without shots.",
}
_SCORED, _GENERATED = "the most probable of the choices", "generated"
_SETS: Mapping[str, tuple[str, str, str, float | None]] = {
    "mmlu": ("Exam questions of 57 subjects, four choices.", _SCORED, _ACCURACY, 0.25),
    "commonsense_qa": ("Questions of common sense, five choices.", _SCORED, _ACCURACY, 0.2),
    "math": ("Competition problems (MATH-500) with a short answer.", _GENERATED, _ACCURACY, 0.0),
    "bbh": ("27 tasks of BIG-Bench Hard, reasoned step by step.", _GENERATED, _ACCURACY, None),
    "ax_b": ("SuperGLUE's diagnostics: does the second sentence follow?", _SCORED, _ACCURACY, 0.5),
    "c3": ("Chinese texts and dialogues with two to four choices.", _SCORED, _ACCURACY, None),
    "tydiqa": ("Questions about a passage in nine languages.", _GENERATED, "f1; accuracy (exact), invalid, item", 0.0),
    "mbpp": ("Short Python programs that must pass three tests.", _GENERATED, _ACCURACY, 0.0),
}


def task_catalogue() -> dict[str, TaskInfo]:
    """Return every task by name."""
    found = [
        TaskInfo(
            name, "downstream", _LAB[name], f"generated: {', '.join(task.labels)}", _F1, 1 / len(task.labels),
            "the lab's world", "a lab model", task.heldout(2)[0].prompt,
        )
        for name, task in TASKS.items()
    ]  # fmt: skip
    for name, glue in GLUE_TASKS.items():
        fields = dict.fromkeys(("sentence", "sentence1", "sentence2"), "...")
        found.append(
            TaskInfo(
                name, "glue", _GLUE[name], f"generated: {', '.join(glue.answers)}", _F1, 1 / len(glue.answers),
                f"{name}.jsonl in a directory, or the hub's nyu-mll/glue ({glue.hub[0]}, {glue.hub[1]})", "",
                glue.prompt(fields, glue.answers),
            )
        )  # fmt: skip
    extra = "the extra eval" + ("" if find_spec("lm_eval") else " (not installed: pip install 'errata[eval]')")
    for name, (asks, answers, metric, chance) in _SETS.items():
        benchmark = BENCHMARKS[name]
        source = f"{' or '.join(benchmark.places)} in a directory, or the hub's {benchmark.hub} ({benchmark.split})"
        needs = extra + ("; execute_code: true" if name == "mbpp" else "")
        found.append(TaskInfo(name, "lm_eval", asks, answers, metric, chance, source, needs))
    return {info.name: info for info in found}


def find_task(name: str) -> TaskInfo:
    """Return the task called `name`.

    Raises:
        ConfigError: when there is none; names the nearest.
    """
    known = task_catalogue()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"there is no task {name!r}; known tasks: {', '.join(known)}.{hint}")
    return known[name]
