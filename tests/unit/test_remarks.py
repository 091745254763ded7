"""What is said of facts before they are edited, and of the time that it takes."""

import time
from dataclasses import replace
from typing import Any

from errata.api import edit
from errata.cli import terminal
from errata.cli.terminal import TerminalProgress
from errata.editors.methods.memit import MEMITSettings
from errata.editors.text_source import TextSource
from errata.edits.dataset import DataReport
from errata.probes.scoring import Score
from errata.studies import correct
from errata.studies.correct import held
from errata.studies.duration import guard_operations, preparing
from errata.studies.recipe import GuardSection
from errata.trajectory import Entry
from tiny import tiny_facts, tiny_model


def test_a_fact_that_the_model_holds_is_remarked_and_edited(monkeypatch) -> None:
    model, facts = tiny_model("gpt2"), tiny_facts(3)
    assert held(model, facts) == []
    monkeypatch.setattr(correct, "score", lambda m, pairs, joins: [Score(-1.0, float(i == 1)) for i in range(3)])
    (remark,) = held(model, facts)
    assert remark.startswith(f"the model holds 1 of 3 facts already: {facts[1].text} → {facts[1].target_new}.")
    stray = replace(facts[0], paraphrase_prompts=("Somebody lives in",))
    result = edit(model, [stray, *facts[1:]], "ft-c", guard=False, layer=1, steps=1)
    assert len(result.entries) == 3
    assert any("1 of 3 facts have a paraphrase that does not name the subject" in line for line in result.remarks)
    assert remark in result.remarks
    assert str(result).startswith("note: ")


def test_a_paraphrase_names_its_subject_in_any_case_and_form() -> None:
    fact = replace(tiny_facts(1)[0], subject="Zürich", prompt="{} lies in", paraphrase_prompts=("ZU\u0308RICH is in",))
    assert DataReport.of([fact]).stray == 0
    assert DataReport.of([replace(fact, paraphrase_prompts=("The town is in",))]).stray == 1


def test_preparing_counts_loading_statistics_and_prefixes(tmp_path) -> None:
    model, text = tiny_model("gpt2"), tmp_path / "text.txt"
    text.write_text("a line of text\n" * 100)
    settings = MEMITSettings(layers=(0, 1), statistics=TextSource(source=str(text)))
    found = preparing(model, settings, 1e9)
    assert list(found) == ["loading", "statistics", "prefixes"]
    more = MEMITSettings(layers=(0, 1), statistics=TextSource(source="a/hub-set", samples=1000, bound=None))
    assert (whole := preparing(model, more, 1e9)["statistics"]) > 100 * found["statistics"]
    enough = MEMITSettings(layers=(0, 1), statistics=TextSource(source="a/hub-set", samples=1000))
    assert preparing(model, enough, 1e9)["statistics"] < whole / 100  # it stops when C is known well enough
    assert guard_operations(model, GuardSection()) == 0.0
    assert guard_operations(model, GuardSection(enabled=True, lines=64)) == 2 * guard_operations(
        model, GuardSection(enabled=True, lines=32)
    )


def test_time_left_follows_the_edits_made_of_late(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    progress = TerminalProgress("x")
    for done, now in ((1, 0.0), (11, 10.0)):
        clock[0] = now
        progress.doing("covariance statistics", done, 31)
    assert "covariance statistics 11/31, 20 s left" in capsys.readouterr().err
    progress.begin(0, 100)
    rows: dict[str, Any] = {}
    for step in range(1, 41):
        progress.edited([Entry(step, step, str(step), "Ada", "applied")], rows, 1.0 if step <= 20 else 20.0)
    lines = capsys.readouterr().err.splitlines()
    assert "20/100 edits, 1.00 s/edit, 80 s left" in lines[0]
    assert "40/100 edits, 20.00 s/edit, 20 min left" in lines[1]
    clock[0] += 31.0  # slow edits are not silent until the twentieth
    progress.edited([Entry(41, 41, "41", "Ada", "applied")], rows, 20.0)
    assert "41/100" in capsys.readouterr().err


def test_what_says_nothing_after_its_beginning_gets_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(terminal, "_SHORT", 0.05)
    progress = TerminalProgress("x")
    progress.doing("loading a", 0, 1)
    progress.doing("loading a", 1, 1)
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    progress.doing("loading b", 0, 1)
    time.sleep(0.2)
    progress.doing("loading b", 1, 1)
    progress.end()
    assert capsys.readouterr().err == "x: loading b ...\n"
