"""One number for one fact: what log, undo, verdict and quarantine call it."""

import json
from pathlib import Path

import pytest
from test_correct import N, _shove, by_shove, home, invoke, run  # noqa: F401

from errata.analysis.frames import load_run
from errata.analysis.ledger import ledger
from errata.edits.jsonl import read_own
from errata.errors import RunError
from errata.studies.ledger import undo
from tiny import tiny_facts


@pytest.fixture
def numbered(home, tmp_path) -> Path:  # noqa: F811
    """Facts whose ids are other facts' numbers: rows from 1, ids from 0."""
    facts = tmp_path / "facts.jsonl"
    lines = [{k: getattr(f, k) for k in ("id", "subject", "prompt", "target_new")} for f in tiny_facts(N)]
    facts.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    invoke("edit", facts, "--out", tmp_path / "run", "--json", *by_shove(home))
    return tmp_path / "run"


def test_an_id_that_is_another_edits_number_is_asked_about(numbered) -> None:
    facts = tiny_facts(N)
    with pytest.raises(RunError, match="which edit is meant by '2'") as asked:
        undo(numbered, id="2")
    said = str(asked.value)
    assert f"the number of '{facts[1].text} → {facts[1].target_new}': --edit 2" in said
    assert f"the id of '{facts[2].text} → {facts[2].target_new}': --edit 3" in said
    assert [line.status for line in ledger(load_run(numbered))].count("undone") == 0
    told = invoke("undo", str(numbered), "--edit", 2)
    assert f"took back 2 (id 1): {facts[1].text} → {facts[1].target_new}" in told
    assert "    2  " in invoke("log", numbered)
    assert undo(numbered, id="0").edits == (1,)  # no edit has the number 0
    with pytest.raises(RunError, match="there is no edit 9 to undo; errata log shows the numbers, 1 to 5"):
        undo(str(numbered), edit=9)


def test_facts_without_ids_have_their_numbers_for_ids(run) -> None:  # noqa: F811
    lines = ledger(load_run(str(run)))
    assert [(line.id, line.edit) for line in lines] == [(str(n), n) for n in range(1, N + 1)]
    (refused,) = read_own(str(run / "quarantine.jsonl"))
    assert [json.loads(line)["edit"] for line in (run / "quarantine.jsonl").read_text().splitlines()] == [
        int(refused.id)
    ]
    assert undo(run, id="5").edits == (5,)
