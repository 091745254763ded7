"""What holds for every test: shapes are checked, one thread, no cache outside the test's own folder."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Shapes in signatures are enforced here and only here; users pay nothing for them.
_SHAPED = ("keys", "methods", "solve", "statistics", "update", "values")
install_import_hook(["errata.models", *(f"errata.editors.{name}" for name in _SHAPED)], "beartype.beartype")
torch.set_num_threads(1)

from errata.models.known import KNOWN_MODELS, models_cache  # noqa: E402 - behind the hook, which wraps what is imported

_MODELS = models_cache()
"""Where `make models` puts real models: found out before tests get a cache of their own."""


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def lab_cache(tmp_path_factory) -> Path:
    """One cache for the tests that edit a shipped model, whose statistics take most of their time; of all workers."""
    root = tmp_path_factory.getbasetemp()
    return (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "lab-cache"


@pytest.fixture
def with_lab_cache(lab_cache, monkeypatch, _cache_of_its_own) -> None:
    """Let this test find the statistics that another has computed."""
    monkeypatch.setenv("ERRATA_CACHE", str(lab_cache))


@pytest.fixture
def smollm2(monkeypatch, _cache_of_its_own) -> Path:
    """The directory of smollm2-135m, which its short name finds then; a test that wants it is skipped without it."""
    monkeypatch.setenv("ERRATA_MODELS", str(_MODELS))
    known = KNOWN_MODELS["smollm2-135m"]
    if not known.here:
        pytest.skip(f"{known.name} is not in {known.directory}: make models MODELS={known.name}")
    return known.directory
