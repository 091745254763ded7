"""Write an answer: JSON and a picture beside its runs, and the made part of a page, whose prose is kept."""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from errata.errors import ConfigError
from errata.files import write_aside
from errata.report.screen_charts import svg
from errata.report.words import safe_json
from errata.studies.questions.question import Answer, Question
from errata.studies.reproduce.work import Size

__all__ = ["block", "check_page", "fill", "picture_of", "write"]

_BEGIN, _END = "<!-- made -->", "<!-- end -->"
_MADE = re.compile(rf"({re.escape(_BEGIN)}\n).*?({re.escape(_END)})", re.DOTALL)


def write(asked: Question, size: Size, answer: Answer, out: Path, command: str, missing: Sequence[str]) -> list[Path]:
    """Write `answers/NAME.json`, `.svg` and `.md` below the directory of the runs; return them."""
    place = out / "answers"
    content = {
        "question": asked.title,
        "command": command,
        "model": size.model,
        "edits": size.edits,
        "samples": size.samples,
        "missing": list(missing),
        "metrics": list(answer.metrics),
        "tables": [{"columns": list(t.columns), "rows": list(t.values)} for t in answer.tables],
    }
    picture = place / f"{asked.name}.svg"
    write_aside(place / f"{asked.name}.json", (json.dumps(json.loads(safe_json(content)), indent=1) + "\n").encode())
    write_aside(picture, svg(answer.figure).encode())
    page = place / f"{asked.name}.md"
    fill(page, asked.title, block(asked, size, answer, picture.name, command, missing))
    return [place / f"{asked.name}.json", picture, page]


def block(asked: Question, size: Size, answer: Answer, picture: str, command: str, missing: Sequence[str]) -> str:
    """Return the made part of a page.

    Args:
        asked: the question.
        size: of its runs.
        answer: what they say.
        picture: where the picture lies, seen from the page.
        command: makes everything.
        missing: runs that were asked for and are not there.
    """
    tables = "\n".join(table.markdown() for table in answer.tables)
    kinds = Counter(name.rpartition("/")[0] for name in missing)
    absent = f" Runs that are not there: {', '.join(f'{n} of {kind}' for kind, n in kinds.items())}." if kinds else ""
    return (
        f"{asked.about(size)} Model: `{size.model}`. Made by `{command}`.{absent}\n\n"
        f"![{answer.caption}]({picture})\n\n*{answer.caption}.*\n\n{tables}\n"
        f"Computed from the rows {', '.join(f'`{m}`' for m in answer.metrics)} of the runs.\n"
    )


def check_page(page: Path) -> None:
    """Refuse a page that could not be filled; one that is not there yet can be.

    Raises:
        ConfigError: when there is a page without markers, or something that is none.
    """
    if not page.exists():
        return
    if not page.is_file():
        raise ConfigError(f"{page} is no file. Name a Markdown page, or one that is not there yet.")
    if not _MADE.search(page.read_text(encoding="utf-8")):
        raise ConfigError(f"{page} has no place for what is made: a line {_BEGIN}, and below it a line {_END}.")


def fill(page: Path, title: str, made: str) -> None:
    """Put the made part between a page's markers; what is written around them stays. A new page has nothing else.

    Raises:
        ConfigError: when there is a page without markers.
    """
    if not page.exists():
        write_aside(page, f"# {title}\n\n{_BEGIN}\n{made}{_END}\n".encode())
        return
    check_page(page)
    text = page.read_text(encoding="utf-8")
    write_aside(page, _MADE.sub(lambda found: f"{found[1]}{made}{found[2]}", text).encode())


def picture_of(page: Path, figure: Path) -> str:
    """Return a figure's place as a page names it."""
    return Path(os.path.relpath(figure, page.parent)).as_posix()
