"""Read the second paper's eight sets from local files, as their authors publish them, into the hub's columns."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.edits.records import local_records
from errata.errors import EditDataError
from errata.files import read_text
from errata.probes.records import list_field, text_field, texts_field

__all__ = ["SHOTS", "LocalSet", "Reader", "read_bbh", "read_c3", "read_mbpp", "read_pairs", "read_questions"]
__all__ += ["read_math", "read_mmlu", "read_tydiqa", "set_files"]

Record = dict[str, Any]
LocalSet = dict[str, tuple[list[Record], list[Record]]]
"""For each subset what is asked, and what shots are taken from."""
Reader = Callable[[Path], LocalSet]

SHOTS = 8
"""Where a set has no part of its own for shots, its first records are kept for them and never asked."""
_LANGUAGES = {"ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ko": "korean"}
_LANGUAGES |= {"ru": "russian", "sw": "swahili", "te": "telugu"}


def set_files(place: Path, *endings: str) -> list[Path]:
    """Return a set's files in the order of their names.

    Args:
        place: the file, or a directory of them.
        endings: how they may end.

    Raises:
        EditDataError: when there is none.
    """
    found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.name.endswith(endings))
    if not found:
        raise EditDataError(f"{place} holds no file ending in {' or '.join(endings)}.")
    return found


def _apart(records: list[Record]) -> tuple[list[Record], list[Record]]:
    return records[SHOTS:], records[:SHOTS]


def read_mmlu(place: Path) -> LocalSet:
    """Read `test/<subject>_test.csv` and `dev/<subject>_dev.csv`, with a header line or without, as published."""
    found: LocalSet = {}
    for file in set_files(place / "test", "_test.csv"):
        subject = file.name.removesuffix("_test.csv")
        found[subject] = (_mmlu_rows(file), _mmlu_rows(place / "dev" / f"{subject}_dev.csv"))
    return found


def _mmlu_rows(file: Path) -> list[Record]:
    text = read_text(file, EditDataError)
    made = []
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), 1):
        if row and not (number == 1 and row[0] == "question"):
            answer = row[-1].strip()
            if len(row) != 6 or answer not in ("0", "1", "2", "3", "A", "B", "C", "D"):
                raise EditDataError(
                    f"{file}, row {number}: {len(row)} cells, the last {answer!r}; a question, four choices and the "
                    f"answer (0 to 3, or A to D) are needed."
                )
            gold = int(answer) if answer.isdigit() else "ABCD".index(answer)
            made.append({"question": row[0], "choices": row[1:5], "answer": gold})
    return made


def read_questions(place: Path) -> LocalSet:
    """Read CommonsenseQA: flat records, or the authors' with the question nested; choices in the order of their labels.

    Choices without labels are A to E as they stand.
    """
    made = []
    for where, record in _records(place):
        inner: Mapping[str, Any] = record["question"] if isinstance(record.get("question"), dict) else record
        choices: Any = inner.get("choices")
        columns = _columns(choices, where) if isinstance(choices, list) else choices
        texts = texts_field(columns, "text", where)
        letters = texts_field(columns, "label", where) if "label" in columns else list("ABCDE")
        if len(texts) != 5 or sorted(letters) != list("ABCDE"):
            raise EditDataError(
                f"{where}: five choices labelled A to E are needed, found {texts!r:.160} labelled {letters!r:.60}."
            )
        texts = [text for _, text in sorted(zip(letters, texts, strict=True))]
        question = text_field(inner, "stem" if inner is not record else "question", where)
        answer = text_field(record, "answerKey", where)
        if answer not in ("A", "B", "C", "D", "E"):
            raise EditDataError(f"{where}: `answerKey` is {answer!r}, but a letter A to E is needed.")
        made.append({"question": question, "choices": {"text": texts}, "answerKey": answer})
    return {"": _apart(made)}


def _columns(choices: list[Any], where: str) -> Record:
    """Turn a list of choices into lists of their texts and, where they have them, labels."""
    keys = ("label", "text") if any(isinstance(c, Mapping) and "label" in c for c in choices) else ("text",)
    return {key: [text_field(c, key, where) for c in choices] for key in keys}


def read_math(place: Path) -> LocalSet:
    """Read MATH problems with their solutions, the answer in a box."""
    made = []
    for where, record in _records(place):
        problem, solution = text_field(record, "problem", where), text_field(record, "solution", where)
        if "\\boxed" not in solution:
            raise EditDataError(f"{where}: `solution` holds no \\boxed answer.")
        made.append({"problem": problem, "solution": solution})
    return {"": _apart(made)}


def read_bbh(place: Path) -> LocalSet:
    """Read BIG-Bench Hard: a file a task, {"examples": [{"input", "target"}]}; the shots come with lm-eval."""
    found: LocalSet = {}
    for file in set_files(place, ".json"):
        examples = list_field(_content(file, dict), "examples", str(file))
        found[file.stem] = (
            [_fields(x, ("input", "target"), f"{file}, example {i}") for i, x in _numbered(examples)],
            [],
        )
    return found


def read_pairs(place: Path) -> LocalSet:
    """Read AX-b: pairs of sentences, `label` as a word or as SuperGLUE's number (0: entailment)."""
    numbers = {"entailment": 0, "not_entailment": 1, 0: 0, 1: 1}
    made = []
    for where, record in _records(place):
        label = record.get("label")
        if not isinstance(label, str | int) or label not in numbers:
            raise EditDataError(f"{where}: `label` is {label!r}, but entailment or not_entailment is needed.")
        made.append({**_fields(record, ("sentence1", "sentence2"), where), "label": numbers[label]})
    return {"": _apart(made)}


def read_c3(place: Path) -> LocalSet:
    """Read C3: [[lines of a text, its questions, id], ...] in one or several files."""
    made = []
    for file in set_files(place, ".json"):
        for i, entry in _numbered(_content(file, list)):
            where = f"{file}, text {i}"
            if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(part, list) for part in entry[:2]):
                raise EditDataError(f"{where}: lines, questions and an id are needed.")
            lines = texts_field({"lines": entry[0]}, "lines", where)
            for question in entry[1]:
                asked, answer = (text_field(question, key, where) for key in ("question", "answer"))
                choices = texts_field(question, "choice", where)
                if answer not in choices:
                    raise EditDataError(f"{where}: the answer {answer!r} is not among the choices {choices!r}.")
                made.append({"context": lines, "question": asked, "choice": choices, "answer": answer})
    return {"": _apart(made)}


def read_tydiqa(place: Path) -> LocalSet:
    """Read TyDiQA's gold passages: SQuAD's nesting, a file a language, named by its code (en.json).

    A question whose answers are all empty, as in the test files, is kept: it is asked and its score is missing.
    """
    found: LocalSet = {}
    for file in set_files(place, ".json"):
        code = file.stem.rpartition("-")[2].rpartition(".")[2]
        language = _LANGUAGES.get(code) or next((n for c, n in _LANGUAGES.items() if n in file.stem), None)
        if language is None:
            raise EditDataError(f"{file}: the name says no language of TyDiQA's: {', '.join(_LANGUAGES)}.")
        made: list[Record] = []
        for i, entry in _numbered(list_field(_content(file, dict), "data", str(file))):
            where = f"{file}, entry {i}"
            for paragraph in list_field(entry, "paragraphs", where):
                for asked in list_field(paragraph, "qas", where):
                    answers = _answers(asked, where)
                    made.append(
                        {
                            "id": f"{language}-{len(made)}",
                            "title": "",
                            "context": text_field(paragraph, "context", where),
                            "question": text_field(asked, "question", where),
                            # A string is needed to render the task; what is empty is told apart when it is scored.
                            "answers": {"text": answers or [""]},
                        }
                    )
        found[next(c for c, n in _LANGUAGES.items() if n == language)] = _apart(made)
    return found


def _answers(asked: Any, where: str) -> list[str]:
    """Return TyDiQA's answers to a question; none where they are empty, or the question has no such field."""
    given = list_field(asked, "answers", where) if not isinstance(asked, Mapping) or "answers" in asked else []
    if not all(isinstance(answer, Mapping) and isinstance(answer.get("text"), str) for answer in given):
        raise EditDataError(f"{where}: `answers` is {given!r:.80}, but objects with a text `text` are needed.")
    return [answer["text"] for answer in given if answer["text"].strip()]


def read_mbpp(place: Path) -> LocalSet:
    """Read MBPP, whole or sanitized: problems 11 to 510 are asked, 1 to 10 are for shots, as in its paper."""
    files = set_files(place, ".jsonl", ".json")
    asked, shots = [], []
    for where, record in local_records(files[0]):
        tests, number = texts_field(record, "test_list", where), record.get("task_id")
        if not isinstance(number, int):
            raise EditDataError(f"{where}: `task_id` is {number!r}, but a number is needed.")
        setup = record.get("test_setup_code") or ""
        if not setup and record.get("test_imports"):
            setup = "\n".join(texts_field(record, "test_imports", where))
        if not isinstance(setup, str):
            raise EditDataError(f"{where}: `test_setup_code` is {setup!r:.80}, but a text is needed.")
        made = {
            "text": text_field(record, "text" if "text" in record else "prompt", where),
            "code": text_field(record, "code", where).replace("\r\n", "\n"),
            "test_list": tests,
            "test_setup_code": setup,
        }
        if number <= 10:
            shots.append(made)
        elif number <= 510:
            asked.append(made)
    return {"": (asked, shots)}


def _records(place: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for file in set_files(place, ".jsonl", ".json"):
        yield from local_records(file)


def _content(file: Path, kind: type) -> Any:
    try:
        content = json.loads(read_text(file, EditDataError))
    except (ValueError, RecursionError) as e:
        raise EditDataError(f"{file} cannot be read as JSON ({e}).") from e
    if not isinstance(content, kind):
        raise EditDataError(f"{file} holds a {type(content).__name__}, but a {kind.__name__} is needed.")
    return content


def _numbered(entries: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate(entries, 1)


def _fields(record: Mapping[str, Any], names: Sequence[str], where: str) -> Record:
    return {name: text_field(record, name, where) for name in names}
