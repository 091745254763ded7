"""The app's bench and page, without gradio: what is compared, what it cost, what is taken back, what is escaped."""

import asyncio
import re

import pytest
import torch

from errata.app.bench import Bench
from errata.app.page import HOST, LocalOnly, Page
from errata.editors.ladder import Ladder
from errata.edits import Fact
from errata.edits.fields import names
from errata.edits.lab import read_lab
from errata.errors import EditDataError, RunError
from errata.models import load
from errata.studies.recipe import GuardSection
from errata.trajectory import Dense, overlay

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def bench():
    made = Bench(load("lab-s"), "grace")  # no statistics to wait for
    yield made
    made.close()


@pytest.fixture
def clean(bench):
    """Take everything back afterwards."""
    yield bench
    while any(entry.applied for entry in bench.log):
        bench.undo()


def test_a_typed_fact_is_tried_on_prompts_it_was_not_taught(clean) -> None:
    example = read_lab(None, "lab-s")[0]
    shown = clean.edit(Fact(example.subject, example.prompt, example.target_new), ["The weather is"])
    kinds = [line.kind for line in shown.lines]
    assert kinds[0] == "prompt"
    assert kinds.count("paraphrase") == len(example.paraphrase_prompts)
    assert kinds.count("neighbor") >= 1
    assert kinds[-1] == "free text"
    first = shown.lines[0]
    assert first.before.split()[0] == example.target_true
    assert first.after.split()[0] == example.target_new
    assert first.p_before < 0.5 < first.p_after
    assert shown.lines[-1].p_before is None
    neighbor = next(line for line in shown.lines if line.kind == "neighbor")
    assert neighbor.wanted == example.target_true
    assert neighbor.before.split()[0] == example.target_true


def test_the_cost_runs_and_undo_is_exact(clean) -> None:
    start = clean.costs[0]
    assert start.unrelated > 0.95
    assert start.perplexity > 1
    assert start.kept == 1.0
    here = len(clean.log)
    fact = read_lab(None, "lab-s")[1]
    clean.edit(fact)
    assert clean.costs[-1].edits == 1
    taken = clean.undo()
    assert (taken.subject, taken.status) == (fact.subject, "undone")
    again = clean.costs[-1]
    assert (again.unrelated, again.perplexity, again.kept, again.edits) == (
        start.unrelated,
        start.perplexity,
        start.kept,
        0,
    )
    assert len(clean.log) == here + 1
    with pytest.raises(RunError, match="no edit to take back"):
        clean.undo()


def test_the_cost_is_of_the_model_as_it_is(clean) -> None:
    path = clean.model.mlp_out(0)
    noise = torch.randn(clean.model.weight(path).shape, generator=torch.Generator().manual_seed(0))
    with overlay(clean.model, {path: Dense(noise)}):
        broken = clean._cost()
    start = clean.costs[0]
    assert broken.unrelated < 0.5 * start.unrelated
    assert broken.perplexity > 2 * start.perplexity
    assert broken.kept < 0.5


def test_an_edit_that_costs_too_much_is_left_out_and_said_so() -> None:
    page = Page(Bench(load("lab-s"), "ft-c"))
    subject, prompt, target = page.examples()[0]
    shown, state = page.edit(subject, prompt, target, "", "", "")
    assert "rolled-back" in shown
    assert "canary" in shown
    assert "0 of 1 edits in the model" in state
    assert page.bench.costs[-1].kept == 1.0


def test_lines_about_what_is_edited_are_no_damage(clean) -> None:
    facts = read_lab(None, "lab-s")
    fact = next(fact for fact in facts if any(names(line, [fact.subject]) for line in clean._lines))
    clean.edit(fact)
    assert not any(names(line, [fact.subject]) for line in clean._canary.lines)
    clean.undo()
    clean.edit(next(other for other in facts if other.subject != fact.subject))
    assert any(names(line, [fact.subject]) for line in clean._canary.lines)


def test_what_costs_too_much_is_proposed_with_a_gentler_setting(monkeypatch) -> None:
    monkeypatch.setattr(Ladder, "prepare", lambda self, model, statistics, rng: None)
    bench = Bench(load("lab-s"), "memit")
    assert bench.trajectory.settings == 2
    assert bench.trajectory.judge.limits.budget == GuardSection().budget


def test_a_fact_the_model_cannot_read_changes_nothing(clean) -> None:
    here = len(clean.log)
    with pytest.raises(EditDataError):
        clean.edit(Fact("Ada " * 300, "{} lives in", "Oslo"))
    assert len(clean.log) == here


def test_the_page_escapes_what_users_write(clean) -> None:
    page = Page(clean)
    shown, state = page.edit(f"Hugo {HOSTILE}", "{} lives with a", "donkey", HOSTILE, HOSTILE, f"{HOSTILE}\nOnce")
    for html in (shown, state):
        assert "<img" not in html
        assert "&lt;img" in html
    assert shown.count("<tr") == 1 + 5
    refused, _ = page.edit(None, f"{HOSTILE} {{}}", "x", "", "", "")
    assert "error" in refused
    assert "<img" not in refused
    unknown, state = page.begin(f"nowhere/{HOSTILE}", "ft-c")
    assert "error" in unknown
    assert "<img" not in unknown
    assert "lab-s" in state, "the bench stays as it was"


def test_undo_on_the_page_shows_the_last_fact_as_it_was(clean) -> None:
    page = Page(clean)
    subject, prompt, target = page.examples()[0]
    shown, _ = page.edit(subject, prompt, target, None, None, None)
    assert 'class="changed"' in shown
    back, state = page.undo()
    assert "paraphrase" in back
    assert 'class="changed"' not in back
    assert "undone" in state
    nothing, _ = page.undo()
    assert "no edit to take back" in nothing


def test_answers_forbid_everything_from_outside() -> None:
    sent = []

    async def inside(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    async def outside(message) -> None:
        sent.append(message)

    asyncio.run(LocalOnly(inside)({"type": "http"}, None, outside))
    headers = dict(sent[0]["headers"])
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert not re.search(r"https?:|\*", policy)
    assert HOST == "127.0.0.1"
