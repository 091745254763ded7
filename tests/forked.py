"""Processes of their own, forked from one that has imported everything and computed nothing: they begin at once."""

import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

DEADLINE = 900.0
"""Seconds after which a process counts as hung, on however slow a machine."""
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["transformers", "errata.studies.run", "errata.training"])


def begin(messages: Path, work: Callable[..., Any], *arguments: Any, **environment: str) -> ForkServerProcess:
    """Begin work in a process.

    Args:
        messages: the file to which it writes what it says.
        work: a function of a module.
        arguments: what it is called with.
        environment: variables that the process has besides those of the tests.
    """
    cache = {"ERRATA_CACHE": os.environ["ERRATA_CACHE"]}
    # A daemon: where a test fails, what it began goes with it.
    process = _CONTEXT.Process(target=_work, args=(messages, {**cache, **environment}, work, arguments), daemon=True)
    process.start()
    return process


def _work(messages: Path, environment: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with messages.open("ab") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    work(*arguments)
