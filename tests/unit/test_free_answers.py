"""Free generation, its judge, and the checks that come with facts: what counts as an answer, and what as none."""

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from errata.edits import Fact
from errata.edits.check import Check, Query
from errata.errors import ConfigError
from errata.models import EditableModel
from errata.probes import generated, probe_class, ripple
from errata.probes.answers import contained, match
from errata.probes.base import Probe, View
from errata.probes.judge import JudgeSettings, ask
from errata.probes.rows import Row
from tiny import tiny_facts, tiny_model


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        (" Oslo.", "Oslo", 1.0),
        (" the Oslo\nShe", "Oslo", 1.0),
        (" Oslo, and she", "Oslo", 0.0),  # the sentence goes on: that is what exact match means
        (" Oslo. Then she went to Rome.", "Oslo", 1.0),
        (" St. Petersburg. It", "St. Petersburg", 1.0),  # a full stop inside the answer is no end of it
        (" Not Oslo.", "Oslo", 0.0),
        (" Münster!", "münster", 1.0),
        (" 《东京》。她", "东京", 1.0),
        (" “Oslo”", "Oslo", 1.0),
        ("\ufffd", "Oslo", math.nan),  # half a character
        (" a 1,000 dollars.", "1 000 dollars", 1.0),
        (" The", "The", 1.0),
        (" the", "Oslo", 0.0),  # a word is an answer
        ("", "Oslo", math.nan),
        (" ...\n", "Oslo", math.nan),
    ],
)
def test_an_answer_is_matched_up_to_the_end_of_a_sentence(text: str, answer: str, value: float) -> None:
    assert match(text, [answer, "another name"]) == pytest.approx(value, nan_ok=True)


def test_containment_wants_every_object_by_any_of_its_names_as_words() -> None:
    wanted = [["Ada", "A. Lovelace"], ["Boris"]]
    assert contained("Boris and a lovelace.", wanted) == 1.0
    assert contained("Ada alone", wanted) == 0.0
    assert contained("Adaline and Boris", wanted) == 0.0
    assert math.isnan(contained(" \n", wanted))
    assert contained("vitamin a is", [["Vitamin A"]]) == 1.0  # a letter that is a name is no article


def build(name: str, **settings: object) -> Probe:
    cls = probe_class(name)
    return cls(cls.Settings.model_validate(settings))


class Script:
    """Stand in for `generate`: answers from a table, and notes what was asked."""

    def __init__(self, answers: dict[str, str], otherwise: str = "") -> None:
        self.answers = answers
        self.otherwise = otherwise
        self.asked: list[str] = []

    def __call__(self, model: EditableModel, prompts: list[str], new_tokens: int) -> list[str]:
        self.asked += prompts
        return [self.answers.get(p, self.otherwise) for p in prompts]


def by_metric(rows: Iterator[Row]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.metric, []).append(row.value)
    return found


def test_free_answers_are_scored_and_a_missing_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (fact, other) = tiny_model("gpt2"), tiny_facts(2)
    probe = build("generated", template="Q: {}\nA:", new_tokens=5)
    probe.prepare(model, [fact, other])
    script = Script(
        {
            f"Q: {fact.text}\nA:": f" {fact.target_new}.",
            f"Q: {fact.paraphrase_prompts[0]}\nA:": f" {fact.target_true}.",
            f"Q: {fact.neighborhood_prompts[0]}\nA:": f" {fact.target_true} .",
        }
    )
    monkeypatch.setattr(generated, "generate", script)
    rows = list(probe.measure(View(model, 1, [fact], [fact])))
    found = by_metric(iter(rows))
    assert found["efficacy.generated@now"] == [1.0]
    assert found["paraphrase.generated@now"] == pytest.approx([0.0, math.nan], nan_ok=True)
    assert found["neighborhood.generated@now"] == pytest.approx([1.0, math.nan], nan_ok=True)
    assert {r.prompt_id for r in rows} == {
        "efficacy:0", "paraphrase:0", "paraphrase:1", "neighborhood:0", "neighborhood:1",
    }  # fmt: skip
    assert rows[0].text == f" {fact.target_new}."
    base = by_metric(probe.measure(View(model, 0)))
    assert {m: len(v) for m, v in base.items()} == {
        "efficacy.generated@base": 2, "paraphrase.generated@base": 4, "neighborhood.generated@base": 4,
    }  # fmt: skip
    end = by_metric(probe.measure(View(model, 2, [other], [fact, other], final=True)))
    assert len(end["efficacy.generated@end"]) == 2
    with pytest.raises(ValidationError, match="exactly one"):
        build("generated", template="no place")


@contextmanager
def endpoint(replies: list[Any]) -> Iterator[tuple[str, list[tuple[dict[str, str], dict[str, Any]]]]]:
    """Serve an OpenAI-compatible endpoint: a text is a reply or, when an address, a redirect; a number a status."""
    seen: list[tuple[dict[str, str], dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reply = replies[len(seen)]
            seen.append((dict(self.headers), json.loads(body)))
            content = b"not json"
            if isinstance(reply, str) and reply.startswith("http"):
                self.send_response(302)
                self.send_header("Location", reply)
                self.end_headers()
                return
            if isinstance(reply, str):
                content = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
            self.send_response(reply if isinstance(reply, int) else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:  # what a followed redirect becomes
            seen.append((dict(self.headers), {}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_judge_that_fails_has_judged_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = ["Yes.", "no", "Yes and no", "maybe", 500, None, ""]
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with endpoint(replies) as (url, seen):
        judge = JudgeSettings(base_url=url, model="a-judge", key_env="JUDGE_KEY", timeout=5)
        found = [ask(judge, "Ada was born in", ["Oslo", "Christiania"], " Oslo .") for _ in replies]
    nan = math.nan
    assert [value for value, _ in found] == pytest.approx([1, 0, nan, nan, nan, nan, nan], nan_ok=True)
    assert found[2][1] == "judge: Yes and no"
    assert "500" in found[4][1]
    headers, body = seen[0]
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("a-judge", 0)
    assert all(part in body["messages"][0]["content"] for part in ("Ada was born in", "Oslo / Christiania", " Oslo ."))
    gone = ask(JudgeSettings(base_url=url, model="a-judge", timeout=1), "p", ["a"], "b")  # nobody listens any more
    assert math.isnan(gone[0])
    odd = ask(JudgeSettings(base_url="http://local host/v1", model="a-judge", timeout=1), "p", ["a"], "b")
    assert math.isnan(odd[0])
    with pytest.raises(ValidationError, match="address of an endpoint"):
        build("generated", judge={"base_url": "ftp://x", "model": "m"})


def test_a_judge_s_redirect_is_not_followed_and_the_key_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with endpoint([]) as (elsewhere, reached), endpoint([f"{elsewhere}/chat/completions"]) as (url, _):
        verdict, why = ask(JudgeSettings(base_url=url, model="a-judge", timeout=5), "p", ["a"], "b")
    assert math.isnan(verdict)
    assert f"redirects to {elsewhere}/chat/completions, which is not followed" in why
    assert reached == []


def test_verdicts_stand_beside_the_match_and_no_key_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (fact,) = tiny_model("gpt2"), tiny_facts(1)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(generated, "generate", Script({fact.text: f" {fact.target_new}, I think"}))
    with endpoint(["yes"]) as (url, seen):
        probe = build("generated", judge={"base_url": url, "model": "a-judge"})
        rows = list(probe.measure(View(model, 1, [fact], [fact])))
    assert len(seen) == 1  # an empty answer is judged by nobody
    found = by_metric(iter(rows))
    assert (found["efficacy.generated@now"], found["efficacy.judged@now"]) == ([0.0], [1.0])
    assert all(map(math.isnan, found["paraphrase.judged@now"]))
    assert "secret" not in probe.settings.model_dump_json()
    assert "a-judge" in probe.settings.model_dump_json()
    assert build("generated").settings.judge is None


def fact_with(*checks: Check, **changes: Any) -> Fact:
    return replace(tiny_facts(1)[0], checks=checks, **changes)


def test_checks_are_asked_under_every_scorer_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    plain = tiny_facts(1)[0]
    fact = fact_with(
        Check(kind="alias", prompt="The birth town of A. is", answers=(plain.target_new,)),
        Check(kind="portability", prompt="The river of A.'s town is", answers=("Akers", "Akerselva")),
        Check(kind="preservation", prompt="A.'s children are", answers=("Bo",), further=(("Cy", "Cyrus"),)),
        Check(kind="locality", prompt="The capital of Peru is", answers=("Lima",)),
    )
    script = Script({"The river of A.'s town is": " Akerselva.", "The capital of Peru is": " Quito."}, " Cyrus, Bo.")
    monkeypatch.setattr(ripple, "generate", script)
    probe = build("ripple")
    probe.prepare(model, [fact])
    found = by_metric(probe.measure(View(model, 1, [fact], [fact])))
    assert set(found) == {
        *(f"alias.{s}@now" for s in ("success", "exact", "generated", "contained")),
        *(f"portability.{s}@now" for s in ("exact", "generated", "contained")),
        *(f"preservation.{s}@now" for s in ("contained", "kept")),  # several objects: no one answer to force
        *(f"locality.{s}@now" for s in ("exact", "generated", "contained", "kept")),
    }
    assert (found["portability.generated@now"], found["portability.contained@now"]) == ([1.0], [1.0])
    assert (found["preservation.contained@now"], found["preservation.kept@now"]) == ([1.0], [1.0])
    assert (found["locality.generated@now"], found["locality.kept@now"]) == ([0.0], [1.0])
    script.answers["The capital of Peru is"] = " Lima."
    assert by_metric(probe.measure(View(model, 2, [], [fact], final=True)))["locality.kept@end"] == [0.0]
    assert build("ripple", kinds=["alias"]).settings.kinds == ("alias",)


def test_only_what_the_unedited_model_knows_can_ripple(monkeypatch: pytest.MonkeyPatch) -> None:
    knows, unsure, silent = (Query(prompt=f"The {x} is", answers=(x,)) for x in ("king", "queen", "fool"))
    fact = fact_with(
        *(
            Check(kind="composition_1", prompt=f"Test {i} is", answers=("x",), conditions=conditions)
            for i, conditions in enumerate([(), (knows,), (knows, unsure), (silent,)])
        )
    )
    script = Script({"The king is": " the king.", "The queen is": " a duke.", "Test 1 is": " x."}, "")
    monkeypatch.setattr(ripple, "generate", script)
    probe = build("ripple")
    probe.prepare(tiny_model("gpt2"), [fact])
    # The model changes; what it knew before it was edited does not.
    script.answers["The queen is"] = " the queen."
    base = list(probe.measure(View(tiny_model("gpt2"), 0)))
    known = {r.prompt_id: r.value for r in base if r.metric == "composition_1.known@base"}
    assert known == pytest.approx(
        {"composition_1:1": 1.0, "composition_1:2": 0.0, "composition_1:3": math.nan}, nan_ok=True
    )
    now = [r for r in probe.measure(View(tiny_model("gpt2"), 1, [fact], [fact])) if r.metric.startswith("composition")]
    assert {r.prompt_id for r in now} == {"composition_1:0", "composition_1:1"}
    values = {r.prompt_id: r.value for r in now if r.metric == "composition_1.generated@now"}
    assert values == pytest.approx({"composition_1:0": math.nan, "composition_1:1": 1.0}, nan_ok=True)


def test_a_test_is_passed_in_any_wording_and_asked_when_its_chain_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiny_facts(2)[1]
    words = [
        Check(kind="multi_hop", prompt=f"Wording {i}:", answers=("Oslo",), group="hop", requires=(other.id,))
        for i in range(3)
    ]
    fact = fact_with(*words)
    script = Script({"Wording 0:": " Rome.", "Wording 1:": " Oslo."}, "")
    monkeypatch.setattr(ripple, "generate", script)
    model, probe = tiny_model("gpt2"), build("ripple")
    probe.prepare(model, [fact, other])
    assert list(probe.measure(View(model, 1, [fact], [fact]))) == []
    (row,) = (r for r in probe.measure(View(model, 2, [other], [fact, other])) if "generated" in r.metric)
    assert (row.metric, row.value, row.edit_id, row.prompt_id, row.text) == (
        "multi_hop.generated@now", 1.0, fact.id, "multi_hop:hop", " Oslo.",
    )  # fmt: skip
    script.answers["Wording 1:"] = " Lima."
    (row,) = (r for r in probe.measure(View(model, 2, [other], [fact, other])) if "generated" in r.metric)
    assert math.isnan(row.value)  # the third wording has no answer, which might have been right


def test_a_ripple_probe_with_nothing_to_ask_says_so() -> None:
    model, fact = tiny_model("gpt2"), fact_with(Check("Ada speaks", ("Greek",), kind="specificity"))
    with pytest.raises(ConfigError, match="none of the 2 facts carries checks"):
        build("ripple").prepare(model, tiny_facts(2))
    with pytest.raises(ConfigError, match="none of the 1 facts carries checks of the kinds alias"):
        build("ripple", kinds=("alias",)).prepare(model, [fact])
    with pytest.raises(ValidationError, match="'rumour' is no kind of check; there are alias"):
        build("ripple", kinds=("rumour",))


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        (" C.", "C++", False),
        (" C++.", "C++", True),
        (" C#.", "C++", False),
        (" F♯ minor", "F# minor", True),
        (" NET.", ".NET", False),
        (" **.NET**", ".NET", True),
        (" 5.", "-5", False),
        (" −5.", "-5", True),
        (" –5 degrees", "-5 degrees", True),
        (" minus 5", "-5", True),
        (" 1914–1918", "1914-1918", True),
        (" A+.", "A-", False),
        (" A−.", "A-", True),
        (" UTC+5", "UTC-5", False),
        (" Vitamin.", "Vitamin A", False),
        (" vitamin a.", "Vitamin A", True),
        (" the Hague", "The Hague", True),
        (" Team.", "A-Team", False),
        (" Zu\u0308rich.", "Zürich", True),
        (" STRASSE", "Straße", True),
        (" ２０", "20", True),
        (" ١٩٨٧", "1987", True),
        (" 10²", "102", False),
        (" 1,987.", "1987", True),
        (" 1\u202f987.", "1987", True),
        (" 1 987 km", "1987 km", True),
        (" 1,987.5", "1987.5", True),
        (" 1.987,5", "1987.5", True),
        (" 1987.5", "19875", False),
        (" 1.987", "1987", False),  # less than two
        (" 1.987.654", "1,987,654", True),
        (" 1,00,000", "100000", True),
        (" 3,14", "3.14", True),
        (" .5", "5", False),
        (" 5 €.", "€5", True),
        (" $5.", "€5", False),
        (" $1,987.50", "$1987.50", True),
        (" 5 percent", "5%", True),
        (" 5.", "5%", False),
        (" 東京。", "東京", True),
        (" ｢東京｣、", "東京", True),
        (" U.S.", "US", True),
        (" J. R. R. Tolkien", "J.R.R. Tolkien", True),
        (" O’Brien", "O'Brien", True),
        (" Simon and Garfunkel", "Simon & Garfunkel", True),
        (" ∞", "∞", True),
        (" “Oslo.” She", "Oslo", True),
    ],
)
def test_what_makes_another_answer_stays_and_what_does_not_is_one(said: str, answer: str, right: bool) -> None:
    assert match(said, [answer]) == right
    assert contained(said, [[answer]]) == right


def test_words_are_whole_in_a_text_and_any_place_will_do_without_spaces() -> None:
    assert contained(" New York City.", [["New York"]]) == 1.0
    assert contained("It was -5 degrees.", [["5 degrees"]]) == 0.0
    assert contained("She writes C++ daily", [["C"]]) == 0.0
    assert contained("about 12,345 people", [["345"]]) == 0.0
    assert contained("大阪にあります", [["大阪"]]) == 1.0
    assert contained("首都はParisです", [["Paris"]]) == 1.0
