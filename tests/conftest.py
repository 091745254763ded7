"""What holds for every test: one thread, no file outside the test's own folder, shapes checked."""

import pytest
import torch
from jaxtyping import install_import_hook

# Shapes in signatures are enforced here and only here; users pay nothing for them.
install_import_hook("errata", "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path_factory.mktemp("cache")))
