"""What holds for every test: shapes are checked, one thread, no cache outside the test's own folder."""

import pytest
import torch
from jaxtyping import install_import_hook

# Shapes in signatures are enforced here and only here; users pay nothing for them.
_SHAPED = ("keys", "methods", "solve", "statistics", "update", "values")
install_import_hook(["errata.models", *(f"errata.editors.{name}" for name in _SHAPED)], "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path_factory.mktemp("cache")))
