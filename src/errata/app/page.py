"""The page: forms and buttons around a bench; everything it shows of a user's words is escaped."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2

from errata.app.bench import Bench, Comparison
from errata.editors.registry import editors
from errata.edits import Fact
from errata.errors import ErrataError, MissingExtraError
from errata.lab.models import LAB_MODELS
from errata.models import load
from errata.report.theme import FONT
from errata.report.words import number, share

__all__ = ["Page", "gradio", "serve"]

HOST = "127.0.0.1"
_EXAMPLES = 8
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; form-action 'self'"
)
"""What a browser may load: nothing from elsewhere, whatever gradio's pages name."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def gradio() -> ModuleType:
    """Return gradio with its telemetry off, or say how to install it."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as found
    except ImportError as e:
        raise MissingExtraError("errata app", "app") from e
    return found


class LocalOnly:
    """Add to every answer that the browser may load nothing from outside.

    Args:
        app: the application inside.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self._app(scope, receive, with_policy)


@dataclass(frozen=True)
class Sources:
    """Files by which the cost is measured: known facts and held-out text; "auto" takes a lab model's own."""

    unrelated: str = "auto"
    text: str = "auto"


class Page:
    """What the buttons do, and what is then shown, as HTML.

    Args:
        bench: the model to begin with.
        sources: by what the cost is measured.
    """

    def __init__(self, bench: Bench, sources: Sources | None = None) -> None:
        self.bench = bench
        self._sources = sources or Sources()
        self._last: tuple[Fact, list[str]] | None = None
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("errata.app"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"share": share, "number": number}
        self._templates = environment

    def state(self) -> str:
        """Return what the model has come to: its cost and its log."""
        return self._templates.get_template("state.html.j2").render(bench=self.bench)

    def begin(self, model: str, method: str) -> tuple[str, str]:
        """Take another model, or another method, from its unedited weights on."""

        def anew() -> None:
            bench = Bench(load(model), method, unrelated=self._sources.unrelated, text=self._sources.text)
            self.bench.close()
            self.bench, self._last = bench, None

        return self._shown(anew)

    def edit(
        self,
        subject: str | None,
        prompt: str | None,
        target: str | None,
        paraphrases: str | None = None,
        neighbors: str | None = None,
        free: str | None = None,
    ) -> tuple[str, str]:
        """Teach the fact that was typed; a field that was never opened comes as None."""

        def teach() -> Comparison:
            fact = Fact(
                subject=(subject or "").strip(),
                prompt=(prompt or "").strip(),
                target_new=(target or "").strip(),
                paraphrase_prompts=tuple(_lines(paraphrases)),
                neighborhood_prompts=tuple(_lines(neighbors)),
            )
            comparison = self.bench.edit(fact, _lines(free))
            self._last = comparison.fact, _lines(free)
            return comparison

        return self._shown(teach)

    def undo(self) -> tuple[str, str]:
        """Take the last edit back, and show the fact that was looked at last as it is now."""

        def back() -> Comparison | None:
            self.bench.undo()
            return self.bench.compare(*self._last) if self._last else None

        return self._shown(back)

    def examples(self) -> list[list[str]]:
        """Return facts to try: subject, prompt, object."""
        return [[f.subject, f.prompt, f.target_new] for f in self.bench.material.examples(_EXAMPLES)]

    def _shown(self, work: Callable[[], Comparison | None]) -> tuple[str, str]:
        error, comparison = "", None
        try:
            comparison = work()
        except ErrataError as e:
            error = str(e)
        shown = self._templates.get_template("shown.html.j2").render(error=error, comparison=comparison)
        return shown, self.state()

    def blocks(self) -> Any:
        """Lay the page out."""
        gr = gradio()
        known = [name for name, cls in editors().items() if "checkpoint" not in cls.Settings.model_fields]
        with gr.Blocks(title="Errata", analytics_enabled=False) as page:
            gr.Markdown("# Errata\nCorrect a fact in a language model, and see what it changed.")
            with gr.Row():
                model = gr.Dropdown(
                    list(LAB_MODELS), value=self.bench.model.name, label="model", allow_custom_value=True
                )
                method = gr.Dropdown(known, value=self.bench.method, label="method")
                begin = gr.Button("Begin anew with these")
            with gr.Row():
                with gr.Column(scale=2, min_width=400):
                    subject = gr.Textbox(label="subject")
                    prompt = gr.Textbox(label="prompt", info="{} stands for the subject", placeholder="{} lives with a")
                    target = gr.Textbox(label="new object")
                    with gr.Accordion("More to look at, one a line", open=False):
                        paraphrases = gr.Textbox(label="paraphrases", lines=2)
                        neighbors = gr.Textbox(label="neighbors, which must not change", lines=2)
                        free = gr.Textbox(label="free text to go on from", lines=2)
                    with gr.Row():
                        edit = gr.Button("Edit", variant="primary")
                        undo = gr.Button("Undo")
                    if examples := self.examples():
                        gr.Examples(examples, [subject, prompt, target], label="Facts of the lab's world to change")
                with gr.Column(scale=5):
                    shown = gr.HTML()
                    state = gr.HTML(self.state())
            outputs = [shown, state]
            # One model: one thing at a time, whoever asks.
            alone = {"concurrency_limit": 1, "concurrency_id": "model"}
            begin.click(self.begin, [model, method], outputs, api_name="begin", **alone)
            fields = [subject, prompt, target, paraphrases, neighbors, free]
            edit.click(self.edit, fields, outputs, api_name="edit", **alone)
            undo.click(self.undo, None, outputs, api_name="undo", **alone)
            page.load(self.state, None, state, api_name="state", **alone)
        return page


def serve(page: Page, port: int | None = None, *, block: bool = True, browser: bool = False) -> tuple[Any, str]:
    """Serve the page on this machine alone.

    Args:
        page: the page.
        port: the first free one from 7860 on when None.
        block: until interrupted.
        browser: open one.

    Returns:
        What to close, and the address.
    """
    gr = gradio()
    from starlette.middleware import Middleware

    blocks = page.blocks()
    fonts = [name.strip(" '") for name in FONT.split(",")]
    _, address, _ = blocks.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        inbrowser=browser,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        theme=gr.themes.Base(font=[gr.themes.Font(f) for f in fonts], font_mono=[gr.themes.Font("monospace")]),
        css=(Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8"),
        app_kwargs={"middleware": [Middleware(LocalOnly)]},
    )
    if block:
        blocks.block_thread()
    return blocks, str(address)


def _lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]
