"""A judge for free text: any endpoint that speaks OpenAI's chat protocol, asked whether an answer is right."""

import http.client
import json
import math
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from errata.editors.settings import EditorSettings

__all__ = ["JudgeSettings", "ask"]

_QUESTION = """Question or statement to be completed: {prompt}
Right answer, in any of these forms: {answers}
Given answer: {given}

Does the given answer say what the right answer says? Other words, more detail and the rest of the sentence do not \
matter; an answer that is wrong, evasive or contradicts itself is not right. Reply with one word: yes or no."""
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_TOKENS = 8


class JudgeSettings(EditorSettings):
    """Which endpoint judges generated answers."""

    base_url: str
    """The endpoint's address up to and with its version, for instance http://localhost:8000/v1."""
    model: str
    """The judging model's name there."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; a variable that is not set sends none. The key is never recorded."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds that one answer may take."""

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, base_url: str) -> str:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError("the address of an endpoint is needed, such as http://localhost:8000/v1")
        return base_url


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: it would take the key and the question to where the user did not send them."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Refuse."""
        why = f"the endpoint redirects to {newurl}, which is not followed; set base_url to it if it is the right one"
        raise urllib.error.HTTPError(req.full_url, code, why, headers, fp)


_OPENER = urllib.request.build_opener(_StayHere)


def ask(judge: JudgeSettings, prompt: str, answers: Sequence[str], given: str) -> tuple[float, str]:
    """Ask whether an answer is right: 1.0 for yes, 0.0 for no; NaN where there is no verdict, with the reason.

    An endpoint that fails, or says neither yes nor no, has judged nothing: the verdict is missing and is never taken
    for a no.

    Args:
        judge: the endpoint.
        prompt: what the model was asked.
        answers: any of them is right.
        given: what the model said.

    Returns:
        The verdict, and what is to be read beside it: the judge's reply or the error.
    """
    content = _QUESTION.format(prompt=prompt, answers=" / ".join(answers), given=given)
    body = {
        "model": judge.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": _TOKENS,
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(judge.key_env):
        headers["Authorization"] = f"Bearer {key}"
    url = f"{judge.base_url.rstrip('/')}/chat/completions"
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with _OPENER.open(request, timeout=judge.timeout) as answer:
            reply = str(json.load(answer)["choices"][0]["message"]["content"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as e:
        return math.nan, f"judge failed: {type(e).__name__}: {e}"
    words = {found.lower() for found in _VERDICT.findall(reply)}
    return (float(words == {"yes"}) if len(words) == 1 else math.nan), f"judge: {reply}"
