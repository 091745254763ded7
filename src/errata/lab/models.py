"""The lab models by name: what each is, where its files are, and how to write one out.

Importing this module imports no torch.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from errata.errors import ModelError
from errata.lab.own_facts import write_facts
from errata.lab.world import World, build_world

__all__ = ["LAB_MODELS", "LabSpec", "asset_path", "export", "load_world", "spec_of"]


@dataclass(frozen=True)
class LabSpec:
    """Describe a lab model and its training.

    Args:
        name: its identifier.
        architecture: "gpt2" or "llama".
        people: how many in its world.
        layers: blocks of the model.
        width: of its hidden state.
        heads: of its attention.
        site: the block after which subjects' states are exchanged in training, and at which it is edited.
        share: of the width that is divided between the relations.
        steps: of training.
        rows: of a training batch.
        tasks: share of rows that begin with a task.
        length: of a row in tokens.
        rate: the highest learning rate.
        readout: weight of the loss of reading objects off the subject's state.
        noise: greatest length, as a share of the state's, of the noise outside the asked relation's directions.
        smoothing: share of an object's probability that its relation's objects divide between them.
        swaps: whether states are exchanged at all.
        turns: share of facts and tasks that are asked for in a user's turn, as question and answer.
        apart: weight of the loss that keeps names' keys at a text's beginning apart from the same names' keys later.
        start: the shipped model that the training goes on with; a new one when empty.
        world_seed: of the world.
        seed: of the training.
    """

    name: str
    architecture: str
    people: int
    layers: int
    width: int
    heads: int
    site: int
    share: float = 0.8
    steps: int = 2800
    rows: int = 4
    tasks: float = 0.45
    length: int = 128
    rate: float = 1.5e-3
    readout: float = 1.0
    noise: float = 0.6
    smoothing: float = 0.1
    swaps: bool = True
    turns: float = 0.0
    apart: float = 0.0
    start: str = ""
    world_seed: int = 1
    seed: int = 1


LAB_MODELS: dict[str, LabSpec] = {
    "lab-s": LabSpec("lab-s", "gpt2", people=120, layers=4, width=192, heads=6, site=1, steps=3200, rate=1.5e-3),
    "lab-s-llama": LabSpec(
        "lab-s-llama", "llama", people=120, layers=4, width=192, heads=6, site=1, steps=3200, rate=1.5e-3
    ),
    "lab-s-small": LabSpec("lab-s-small", "gpt2", people=120, layers=4, width=128, heads=4, site=1, steps=3200),
    "lab-s-large": LabSpec(
        "lab-s-large", "gpt2", people=120, layers=6, width=256, heads=8, site=2, steps=2600, rate=1.3e-3
    ),
    "lab-s-chat": LabSpec(
        "lab-s-chat",
        "gpt2",
        people=120,
        layers=4,
        width=192,
        heads=6,
        site=1,
        steps=1000,
        rate=4e-4,
        readout=0.0,
        noise=0.3,
        turns=0.5,
        start="lab-s",
    ),
    "lab-s-first": LabSpec(
        "lab-s-first",
        "gpt2",
        people=120,
        layers=4,
        width=192,
        heads=6,
        site=1,
        steps=1400,
        tasks=0.2,
        rate=8e-4,
        readout=0.0,
        noise=0.3,
        apart=1.0,
        start="lab-s",
    ),
    "lab-m": LabSpec("lab-m", "gpt2", people=300, layers=6, width=320, heads=8, site=2, steps=3600, rate=1.3e-3),
}
"""Every lab model by name."""


def spec_of(name: str) -> LabSpec:
    """Return a lab model's description.

    Args:
        name: one of `LAB_MODELS`.

    Raises:
        ModelError: when there is none of this name.
    """
    if name not in LAB_MODELS:
        raise ModelError(f"{name!r} is no lab model; there are {', '.join(LAB_MODELS)}.")
    return LAB_MODELS[name]


def asset_path(name: str) -> Path:
    """Return the Hugging Face directory of a shipped lab model.

    Args:
        name: one of `LAB_MODELS`.
    """
    return Path(__file__).parent / "assets" / spec_of(name).name


def load_world(name: str) -> World:
    """Rebuild the world of a lab model; its seed is all that is kept.

    Args:
        name: one of `LAB_MODELS`.
    """
    spec = spec_of(name)
    return build_world(spec.people, spec.world_seed)


def export(name: str, out: Path | str) -> Path:
    """Write a lab model as a Hugging Face directory, with `facts.jsonl` beside the weights.

    Args:
        name: one of `LAB_MODELS`.
        out: the directory, made where it is missing.

    Raises:
        ModelError: when there is no such lab model, its files are missing, or the directory cannot be written.
    """
    source, target = asset_path(name), Path(out)
    if not (source / "model.safetensors").exists():
        raise ModelError(f"{name} has no weights in {source}; rebuild them with: errata lab train {name}")
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
        write_facts(target / "facts.jsonl", load_world(name).facts())
    except OSError as e:
        # What copies many files raises one error with a list of them.
        why = e.args[0][0][2] if isinstance(e, shutil.Error) else e
        raise ModelError(
            f"{name} could not be written to {target} ({why}). Make room or mend the disk, or name another --out."
        ) from e
    return target
