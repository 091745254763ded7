"""errata app."""

from typing import Annotated

import typer

__all__ = ["serve"]


def serve(
    model: Annotated[str, typer.Option(help="A lab model, a directory, or a hub name.")] = "lab-s",
    method: Annotated[str, typer.Option(help="An editing method.")] = "memit",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first free one from 7860 on by default.")
    ] = None,
    unrelated: Annotated[
        str, typer.Option(help="A file of facts the model knows; a lab model brings its own.")
    ] = "auto",
    text: Annotated[str, typer.Option(help="A file of held-out text; a lab model brings its own.")] = "auto",
    browser: Annotated[bool, typer.Option("--browser", help="Open the page.")] = False,
) -> None:
    """Serve a page on this machine to try edits on: write a fact, see before and after and the cost, take it back."""
    from errata.app.bench import Bench
    from errata.app.page import Page, Sources, gradio
    from errata.app.page import serve as go
    from errata.models import load

    gradio()  # asked for before the model is loaded
    bench = Bench(load(model), method, unrelated=unrelated, text=text, tell=lambda line: typer.echo(line, err=True))
    blocks, address = go(Page(bench, Sources(unrelated, text)), port, block=False, browser=browser)
    typer.echo(f"{address} (on this machine only; stop with Ctrl-C)")
    blocks.block_thread()
