"""The tutorials do what they show: their cells run, in order, and say what is printed under them."""

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_prints_what_is_shown(notebook: Path, with_lab_cache) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    for cell in cells:
        said = StringIO()
        with redirect_stdout(said):
            exec(compile("".join(cell["source"]), f"{notebook.name}:{cell['id']}", "exec"), names)
        shown, here = printed(cell), said.getvalue()
        # Another machine's sums differ in their last digits; words and the size of every number do not.
        assert NUMBER.sub("#", here) == NUMBER.sub("#", shown)
        assert [float(x) for x in NUMBER.findall(here)] == pytest.approx(
            [float(x) for x in NUMBER.findall(shown)], rel=0.05, abs=0.05
        )


def test_there_are_tutorials() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"edit-one-fact", "run-a-study", "add-a-method"}
