"""The app in a real browser: a fact is typed, edited, shown, taken back; nothing typed is obeyed, nothing fetched."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path; install one to see the app used"),
]
_TYPE = """((label, text) => {
  const all = [...document.querySelectorAll("label")];
  const field = all.find((l) => l.textContent.trim().startsWith(label)).querySelector("input,textarea");
  Object.getOwnPropertyDescriptor(field.constructor.prototype, "value").set.call(field, text);
  field.dispatchEvent(new Event("input", { bubbles: true }));
})"""
_PRESS = """((label) => [...document.querySelectorAll("button")].find((b) => b.textContent.trim() === label).click())"""


class Tab:
    """A browser's page, driven over its devtools."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers = socket, count(1)
        self.asked: list[str] = []
        self.complaints: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method, and take note of what the page asked for and complained of meanwhile."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv(timeout=120))
            if said.get("method") == "Network.requestWillBeSent":
                self.asked.append(said["params"]["request"]["url"])
            if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.complaints.append(said["params"]["entry"]["text"])
            if said.get("id") == number:
                return said["result"]

    def js(self, expression: str) -> Any:
        """Return what an expression gives in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression holds."""
        for _ in range(600):
            if self.js(expression):
                return
            time.sleep(0.2)
        raise AssertionError(f"{expression} never held: {self.js('document.body.innerText')}")


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    assert BROWSER
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    browser = subprocess.Popen(
        [BROWSER, *options, f"--user-data-dir={tmp_path}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = tmp_path / "DevToolsActivePort"
        while not port.exists() or not port.read_text().strip():
            assert browser.poll() is None
            time.sleep(0.1)
        with urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as line:
            yield Tab(line)
    finally:
        browser.terminate()
        browser.wait()


@pytest.fixture
def address() -> Iterator[str]:
    """Serve the app in a process of its own: gradio leaves event loops open behind it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "errata", "app", "--method", "grace", "--port", port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        try:
            assert server.stdout
            yield server.stdout.readline().split()[0]
        finally:
            server.terminate()


def test_a_fact_is_edited_shown_and_taken_back(address: str, tab: Tab) -> None:
    for domain in ("Page", "Network", "Log"):
        tab.call(f"{domain}.enable")
    tab.call("Page.navigate", url=address)
    tab.wait("document.querySelector('.errata .cost') && document.body.innerText.includes('0 of 0 edits')")
    subject = "Hugo <img src=x onerror='document.body.dataset.evil = 1'>"
    for label, text in (("subject", subject), ("prompt", "{} lives with a"), ("new object", "donkey")):
        tab.js(f"{_TYPE}({json.dumps(label)}, {json.dumps(text)})")
    tab.js(f"{_PRESS}('Edit')")
    tab.wait("document.body.innerText.includes('1 of 1 edits')")
    first = "[...document.querySelectorAll('.errata tr.prompt td')].map((c) => c.textContent.trim())"
    kind, prompt, before, after, _ = tab.js(first)
    assert kind == "prompt"
    assert prompt == f"{subject} lives with a"
    assert after.split()[0] == "donkey" != before.split()[0]
    assert tab.js("document.querySelectorAll('.errata img').length") == 0
    assert tab.js("document.body.dataset.evil === undefined")
    tab.js(f"{_PRESS}('Undo')")
    tab.wait("document.querySelector('.log').textContent.includes('undone')")
    assert tab.js(first)[3] == before
    assert tab.complaints == []
    assert {url.split("/")[2] for url in tab.asked if url.startswith("http")} == {address.split("/")[2]}
