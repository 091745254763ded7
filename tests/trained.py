"""Networks of trainable methods for tiny models: a few steps, once for each model and run of the tests."""

import tempfile
from functools import cache
from pathlib import Path

from errata.models import EditableModel, identity_of
from errata.training import train
from tiny import tiny_facts

TRAINING = {
    "mend": {"rank": 8, "alpha": 0.02, "layers": (1, 2), "lr": 1e-3, "alpha_lr": 1e-3},
    "ke": {"lstm": 6, "condition": 8, "hidden": 6, "steps": 40, "lr": 3e-2, "scale": 10.0, "objective": "weighted"},
    "serac": {"hidden": 16, "size": 8, "width": 16, "heads": 2, "steps": 15, "lr": 2e-2},
}
"""Settings of each method's training, over what is common to all."""
_COMMON = {"steps": 3, "edits_per_step": 3, "validation": 0}

_NETWORKS: dict[tuple[str, str], str] = {}


@cache
def _root() -> Path:
    return Path(tempfile.mkdtemp(prefix="errata-trained-"))


def trained(name: str, model: EditableModel) -> str:
    """Return the directory of a method's network for a tiny model, trained in its precision."""
    key = (name, f"{model.name}-{model.dtype}-{identity_of(model)}")
    if key not in _NETWORKS:
        folder = _root() / f"{name}-{len(_NETWORKS)}"
        train(name, model, tiny_facts(12), folder, settings={**_COMMON, **TRAINING[name]})
        _NETWORKS[key] = str(folder)
    return _NETWORKS[key]
