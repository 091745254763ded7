"""The guard that watches a canary: what it objects to, what it does then, and that a resumed run decides alike."""

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from test_closed_form import Given

from errata.editors import registry
from errata.editors.base import Editor
from errata.editors.ladder import Ladder
from errata.editors.update import Update
from errata.edits import EditStream
from errata.edits.fields import names
from errata.edits.jsonl import read_own
from errata.errors import ConfigError
from errata.probes.canary import LineCanary, canary_lines
from errata.probes.scoring import score
from errata.studies.recipe import Recipe, load_recipe
from errata.studies.run import resume, run
from errata.trajectory import DiskJournal, Limits, Trajectory, Watch
from shove import LAYER, Shove, ShovePoint, ShoveSettings
from tiny import tiny_facts, tiny_model

FACTS = tiny_facts(9)
FINE = {"kl": 0.02, "kept": 1.0, "perplexity": 1.0, "learnt": 0.5}
LIMITS = Limits(budget=0.1, kept=0.9, perplexity=1.1, pace=2.0, horizon=100, learnt=0.001, condition=1e14, damp=(0.5,))


@pytest.mark.parametrize(
    ("signals", "before", "left", "size", "said"),
    [
        (FINE, FINE, 10, 1, ""),
        ({**FINE, "kl": 0.023}, FINE, 10, 1, ""),
        ({**FINE, "kl": 0.04}, FINE, 10, 1, "times an edit's share"),
        # The same rise fits where fewer edits are to come, and not where nobody knows how many.
        ({**FINE, "kl": 0.04}, FINE, 2, 1, ""),
        ({**FINE, "kl": 0.04}, FINE, None, 1, "times an edit's share"),
        # A batch of five has five edits' shares, and never more than all that is left.
        ({**FINE, "kl": 0.04}, FINE, 10, 5, ""),
        ({**FINE, "kl": 0.04}, FINE, 50, 5, "times 5 edits' share"),
        ({**FINE, "kl": 0.099}, FINE, None, 200, ""),
        ({**FINE, "kl": 0.101}, FINE, None, 200, "over the budget of 0.1"),
        ({**FINE, "kl": 0.11}, FINE, 1, 1, "over the budget of 0.1"),
        # What is past the budget may still be mended: an edit that lowers the damage passes.
        ({**FINE, "kl": 0.2, "kept": 0.1, "perplexity": 9.0}, {"kl": 0.3, "kept": 0.1, "perplexity": 9.5}, 5, 1, ""),
        ({**FINE, "kl": 0.021, "kept": 0.8}, FINE, 10, 1, "80% of the canary's answers"),
        ({**FINE, "kl": 0.021, "perplexity": 2.5}, FINE, 10, 1, "2.50 times what it was"),
        # Each signal is compared with itself: KL may fall while answers are lost or the prose worsens, or rise alone.
        ({**FINE, "kl": 0.019, "kept": 0.8}, FINE, 10, 1, "80% of the canary's answers"),
        ({**FINE, "kl": 0.019, "perplexity": 2.5}, FINE, 10, 1, "2.50 times what it was"),
        ({**FINE, "kl": 0.021, "kept": 0.8}, {**FINE, "kept": 0.8}, 10, 1, ""),
        # What leaves the object improbable is refused even where it costs nothing.
        ({**FINE, "kl": 0.01, "learnt": 3e-5}, FINE, 10, 1, "teach nothing: the object's probability would be 3e-05"),
        ({**FINE, "learnt": math.nan}, FINE, 10, 1, "teach nothing"),
        ({**FINE, "learnt": 0.001}, FINE, 10, 1, ""),
        ({**FINE, "kl": math.nan}, FINE, 10, 1, "NaN on the canary"),
        ({**FINE, "perplexity": math.inf}, FINE, 10, 1, "NaN on the canary"),
    ],
)
def test_objections(
    signals: dict[str, float], before: dict[str, float], left: int | None, size: int, said: str
) -> None:
    objection = LIMITS.objection(signals, before, left, size)
    assert said in objection
    assert bool(objection) is bool(said)


class Told:
    """A canary that says what it is told for each fact, and notes the weights it was shown."""

    def __init__(self, kl, target=1.0, learnt=1.0) -> None:
        self.kl, self.target, self.learnt = kl, target, learnt
        self.seen: list[float] = []

    def measure(self, model, batch) -> dict[str, float]:
        moved = float((model.weight(model.mlp_out(LAYER)) - tiny_model("gpt2").weight(model.mlp_out(LAYER))).norm())
        self.seen.append(moved)
        target = self.target(moved) if callable(self.target) else self.target
        learnt = self.learnt(moved) if callable(self.learnt) else self.learnt
        return {"kl": self.kl(moved), "kept": 1.0, "perplexity": 1.0, "target": target, "learnt": learnt}


def watched(kl, *rungs: Editor, target=1.0, learnt=1.0, damp=(0.5,)) -> Trajectory:
    limits = replace(LIMITS, damp=damp)
    editor = Ladder(rungs) if len(rungs) > 1 else rungs[0]
    return Trajectory(tiny_model("gpt2"), editor, judge=Watch(limits, Told(kl, target, learnt), edits=10))


def weight(trajectory: Trajectory) -> torch.Tensor:
    return trajectory.model.weight(trajectory.model.mlp_out(LAYER)).clone()


def test_what_costs_little_lands_and_its_signals_are_recorded() -> None:
    trajectory = watched(lambda moved: 0.1 * moved**2, Shove(ShoveSettings()))
    (entry,) = trajectory.advance(FACTS[:1])
    assert (entry.status, entry.verdict, entry.setting, entry.scale) == ("applied", "", 0, 1.0)
    moved = float((weight(trajectory) - tiny_model("gpt2").weight(trajectory.model.mlp_out(LAYER))).norm())
    assert entry.signals["kl"] == pytest.approx(0.1 * moved**2)


def test_damping_lands_half_of_the_update_when_that_still_teaches() -> None:
    # 0.05 costs 0.0208, above a pace of 0.02; half of it costs a quarter.
    whole = watched(lambda moved: 0.0, Shove(ShoveSettings()))
    whole.advance(FACTS[:1])
    trajectory = watched(lambda moved: 8.3 * moved**2, Shove(ShoveSettings()))
    (entry,) = trajectory.advance(FACTS[:1])
    assert (entry.status, entry.scale) == ("applied", 0.5)
    assert entry.verdict.startswith("damped to 0.5 of its size, since it would raise the canary's KL")
    base = tiny_model("gpt2").weight(trajectory.model.mlp_out(LAYER))
    torch.testing.assert_close(weight(trajectory) - base, (weight(whole) - base) / 2)
    assert entry.norms[trajectory.model.mlp_out(LAYER)] == pytest.approx(0.025, rel=1e-3)


class Valued(Shove):
    """Remember the update's values beside its key, or report a condition that no size mends."""

    condition: float | None = None

    def propose(self, model, batch) -> Update:
        update = super().propose(model, batch)
        ((path, change),) = update.changes.items()
        if self.condition:
            return replace(update, diagnostics={"condition": self.condition})
        return replace(update, memory={**update.memory, f"values of {path}": change.left})


def test_what_is_remembered_of_the_whole_update_is_not_damped() -> None:
    gentle = Valued(ShoveSettings(size=0.2))
    trajectory = watched(lambda moved: 8.3 * moved**2, Valued(ShoveSettings()), gentle)
    (entry,) = trajectory.advance(FACTS[:1])
    assert (entry.status, entry.setting, entry.scale) == ("applied", 1, 1.0)


@pytest.mark.parametrize(("name", "tries"), [("memit-history", 3), ("lyaplock", 1)])
def test_lyaplock_restores_the_values_of_its_whole_update_so_it_is_not_damped(name, tries) -> None:
    model = tiny_model("gpt2")
    settings = {"layers": [LAYER], "value": {"steps": 2}, "contexts": {"lengths": []}, "covariance_weight": 3.0}
    editor = registry.editor_class(name)(registry.resolve_settings(name, model, settings))
    editor.prepare(model, Given(), Random(0))
    trajectory = watched(lambda moved: float(moved > 0), editor, damp=(0.7, 0.5))
    assert trajectory.advance(FACTS[:1])[0].status == "rolled-back"
    assert len(trajectory.judge._canary.seen) == 1 + tries  # the level, and the trials


def test_a_batch_may_cost_what_its_edits_may_cost_one_by_one() -> None:
    class Batched(Shove):
        def propose(self, model, batch) -> Update:
            return super().propose(model, batch[:1])

    trajectory = watched(lambda moved: 8.3 * moved**2, Batched(ShoveSettings()), damp=())  # 0.0208 of 0.1 for ten
    assert {entry.status for entry in trajectory.advance(FACTS[:2])} == {"applied"}


def test_a_condition_is_judged_once(monkeypatch) -> None:
    monkeypatch.setattr(Valued, "condition", 1e20)
    trajectory = watched(lambda moved: 0.0, Valued(ShoveSettings()))
    sizes = []
    relative = trajectory.relative
    monkeypatch.setattr(trajectory, "relative", lambda update: sizes.append(update.norms()) or relative(update))
    assert "condition number 1e+20" in trajectory.advance(FACTS[:1])[0].verdict
    assert len(sizes) == 2  # the judge's, and the journal's


def test_what_damping_unteaches_is_proposed_with_the_next_setting_which_is_kept() -> None:
    rungs = (Shove(ShoveSettings()), Shove(ShoveSettings(size=0.2)))
    trajectory = watched(lambda moved: 8.3 * moved**2, *rungs, target=lambda moved: float(moved > 0.04 or moved < 0.02))
    (first,) = trajectory.advance(FACTS[:1])
    assert (first.status, first.setting, first.scale) == ("applied", 1, 1.0)
    assert first.verdict.startswith("made with setting 1, since it would raise")
    shown = len(trajectory.judge._canary.seen)
    (second,) = trajectory.advance(FACTS[1:2])
    assert (second.setting, second.verdict) == (1, "")
    assert len(trajectory.judge._canary.seen) == shown + 1  # one trial: the dear setting is not tried again
    assert [rung.remembered for rung in rungs] == [[0, 1], [0, 1]]


def test_what_no_setting_mends_is_refused_and_leaves_no_trace() -> None:
    rungs = (Shove(ShoveSettings(harmful=("1",))), Shove(ShoveSettings(size=0.2, harmful=("1",))))
    trajectory = watched(lambda moved: 0.05 * moved**2, *rungs)
    trajectory.advance(FACTS[:1])
    before = weight(trajectory)
    (entry,) = trajectory.advance(FACTS[1:2])
    assert entry.status == "rolled-back"
    assert entry.verdict.count("; then ") == 1
    assert torch.equal(weight(trajectory), before)
    assert [rung.remembered for rung in rungs] == [[0], [0]]
    assert trajectory.advance(FACTS[2:3])[0].status == "applied"
    without = watched(lambda moved: 0.05 * moved**2, Shove(ShoveSettings()), Shove(ShoveSettings(size=0.2)))
    without.advance(FACTS[:1])
    without.advance(FACTS[2:3])
    assert torch.equal(weight(trajectory), weight(without))


def test_what_teaches_nothing_is_proposed_with_the_next_setting_and_refused_where_none_teaches() -> None:
    rungs = (Shove(ShoveSettings()), Shove(ShoveSettings(size=0.2)))
    trajectory = watched(lambda moved: 0.0, *rungs, target=0.0, learnt=lambda moved: 1e-4 if moved > 0.02 else 0.3)
    (entry,) = trajectory.advance(FACTS[:1])
    assert (entry.status, entry.setting, entry.scale) == ("applied", 1, 1.0)
    assert "setting 1, since it would teach nothing" in entry.verdict
    hopeless = watched(lambda moved: 0.0, *rungs, target=0.0, learnt=1e-4)
    before = weight(hopeless)
    (entry,) = hopeless.advance(FACTS[:1])
    assert (entry.status, entry.signals["learnt"]) == ("rolled-back", 1e-4)
    assert "a token" in entry.verdict
    assert torch.equal(weight(hopeless), before)
    assert len(hopeless.judge._canary.seen) == 3  # the level, and one trial a setting: what fails is not made smaller


def test_sizes_and_conditions_are_judged_without_a_trial() -> None:
    trajectory = watched(lambda moved: 0.0, Shove(ShoveSettings(size=1e6)), damp=())
    (entry,) = trajectory.advance(FACTS[:1])
    assert entry.status == "rolled-back"
    assert "over 10, the bound until 10 updates" in entry.verdict
    assert trajectory.judge._canary.seen == []


def test_a_solve_that_breaks_down_is_tried_with_the_next_setting_and_fails_where_all_do() -> None:
    trajectory = watched(
        lambda moved: 0.0, Shove(ShoveSettings(breaks=("0", "1"))), Shove(ShoveSettings(breaks=("1",)))
    )
    assert trajectory.advance(FACTS[:1])[0].setting == 1
    (entry,) = trajectory.advance(FACTS[1:2])
    assert (entry.status, entry.verdict) == ("failed", "the system is singular")


def test_the_line_canary_reads_zero_on_the_model_it_was_made_on() -> None:
    model = tiny_model("gpt2")
    canary = LineCanary(model, ["Ada Abend was born in", "old houses stand near water and many"])
    still = canary.measure(model, FACTS[:1])
    assert (still["kl"], still["kept"], still["perplexity"]) == (0.0, 1.0, 1.0)
    assert still["target"] in (0.0, 1.0)
    said = score(model, [(fact.text, fact.target_new) for fact in FACTS[:2]])
    learnt = canary.measure(model, FACTS[:2])["learnt"]
    assert learnt == pytest.approx(sum(math.exp(s.logp) for s in said) / 2)
    path = model.mlp_out(LAYER)
    model.write(path, -3 * model.weight(path))
    moved = canary.measure(model, ())
    assert moved["kl"] > 0.01
    assert moved["perplexity"] != 1.0
    assert "target" not in moved
    assert sum(canary.shifts(model)) / 2 == pytest.approx(moved["kl"])
    model.write(path, torch.full_like(model.weight(path), math.nan))
    assert math.isnan(canary.measure(model, ())["kl"])


def test_no_line_of_a_canary_names_what_is_edited(tmp_path) -> None:
    model = tiny_model("gpt2")
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(f"{fact.text} today" for fact in FACTS) + "\n\nx\n", encoding="utf-8")
    lines = canary_lines(model, str(file), 32, FACTS[:4])
    assert sorted(lines) == sorted(f"{fact.text} today" for fact in FACTS[4:])
    with pytest.raises(ConfigError, match=r"guard\.source"):
        canary_lines(model, str(file), 32, FACTS)
    assert len(canary_lines(model, "auto", 12, FACTS)) == 12


@pytest.mark.parametrize(
    ("line", "subject", "named"),
    [
        ("The capital of France is", "He", False),
        ("In the morning he walks", "He", True),
        ("Inéska sings", "Inés", False),
        ("What INÉS' house is", "Inés", True),
        ("C++ is a language", "C++", True),
        ("C# is a language", "C++", False),
    ],
)
def test_a_subject_is_named_by_whole_words(line: str, subject: str, named: bool) -> None:
    assert names(line, ["Zoë", subject]) is named


def test_a_canary_that_is_too_short_is_told_of(tmp_path) -> None:
    file, told = tmp_path / "lines.txt", []
    file.write_text("".join(f"{fact.text} today\n" for fact in FACTS), encoding="utf-8")
    assert len(canary_lines(tiny_model("gpt2"), str(file), 5, FACTS[:4], tell=told.append)) == 5
    assert told == []
    assert len(canary_lines(tiny_model("gpt2"), str(file), 9, FACTS[:4], tell=told.append)) == 5
    assert "has 5 lines where guard.lines asks for 9: 4 of 9 name what is edited" in told[0]


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Recipe:
    """Nine edits of a tiny model, of which one would disable it, with a canary of eight general lines."""
    monkeypatch.setattr(registry, "entry_points", lambda group: [ShovePoint])
    model = tiny_model("gpt2")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(f.to_mapping()) + "\n" for f in FACTS), encoding="utf-8")
    content = {
        "model": {"name": str(tmp_path / "model")},
        "method": {"name": "shove", "size": 60.0, "harmful": ["4"]},
        "edits": {"dataset": "jsonl", "path": str(tmp_path / "facts.jsonl")},
        "probes": [{"name": "text", "every": 3}],
        "run": {"name": "r", "checkpoint_every": 2},
        "guard": {"enabled": True, "lines": 8, "budget": 0.5, "retry": [{"size": 6.0}], "perplexity": 9.0, "kept": 0.5},
    }
    return load_recipe(content)


def journal(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_a_run_cut_anywhere_decides_as_one_that_was_not(recipe, tmp_path) -> None:
    whole = run(recipe, tmp_path / "whole")
    entries = journal(whole)
    assert {e["setting"] for e in entries if e["status"] == "applied"} == {0, 1}
    refused = [e for e in entries if e["status"] == "rolled-back"]
    assert "4" in {e["id"] for e in refused}
    for cut in (1, 5):
        out = tmp_path / f"cut-{cut}"
        run(recipe, out)
        lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
        (out / "journal.jsonl").write_text("".join(lines[:cut]))
        for folder in (out / "checkpoints").iterdir():  # those at the end: a run cut here has none so late
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        (out / "quarantine.jsonl").unlink()
        resume(out)
        assert journal(out) == entries
        for file in (whole / "updates").iterdir():
            assert (out / "updates" / file.name).read_bytes() == file.read_bytes()
        assert (out / "quarantine.jsonl").read_bytes() == (whole / "quarantine.jsonl").read_bytes()
    assert read_own(str(whole / "quarantine.jsonl")) == [FACTS[int(e["id"])] for e in refused]
    lines = [json.loads(line) for line in (whole / "quarantine.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == [e["verdict"] for e in refused]


def test_verdicts_are_replayed_not_judged_anew(recipe, tmp_path) -> None:
    model = tiny_model("gpt2")
    trajectory = Trajectory(model, Shove(ShoveSettings()), journal=DiskJournal(tmp_path))
    trajectory.advance(FACTS[:1])
    trajectory.advance(FACTS[1:2])
    told = Told(lambda moved: 99.0)
    again = Trajectory(
        tiny_model("gpt2"), Shove(ShoveSettings()), judge=Watch(LIMITS, told), journal=DiskJournal(tmp_path)
    )
    assert torch.equal(weight(again), weight(trajectory))
    assert told.seen == []


def test_the_section_is_checked(tmp_path) -> None:
    content = {"model": {"name": "lab-s"}, "method": {"name": "rome"}}
    with pytest.raises(ConfigError, match=r"did you mean 'budget'"):
        load_recipe({**content, "guard": {"budgett": 1}})
    stream = EditStream(tuple(FACTS[:1]))
    recipe = load_recipe({**content, "guard": {"enabled": True, "retry": [{"layr": 1}]}})
    with pytest.raises(ConfigError, match=r"guard\.retry, number 1: unknown key 'layr'; did you mean 'layer'"):
        run(recipe, tmp_path / "x", stream=stream)
