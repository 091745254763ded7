"""What a training leaves behind: the network to edit with, and what is needed to go on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from errata.errors import ConfigError, ResumeError
from errata.files import write_aside
from errata.models import EditableModel, deviation

if TYPE_CHECKING:
    from errata.training.base import Trainable

__all__ = ["NETWORK", "Checkpoint", "check_same", "digest", "load_checkpoint", "read_tensors", "write_tensors"]

NETWORK = "network.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Describe a trained network.

    Args:
        method: for which method.
        model: the name of the model it was trained on.
        fingerprint: that model's identity.
        settings: of the training.
        step: after how many steps.
        figures: what was measured there.
    """

    method: str
    model: str
    fingerprint: str
    settings: Mapping[str, Any]
    step: int
    figures: Mapping[str, float] = field(default_factory=dict)

    def save(self, folder: Path, network: nn.Module) -> None:
        """Write the network with its description into one file, which is there whole or not at all."""
        write_tensors(folder / NETWORK, network.state_dict(), asdict(self))


def load_checkpoint(
    cls: "type[Trainable]", folder: str, model: EditableModel, *, other_weights: bool = False
) -> nn.Module:
    """Return a method's trained network, in evaluation mode, on the model's device.

    Args:
        cls: the method.
        folder: what `errata train` has written.
        model: the unedited model.
        other_weights: allow a network that was trained on other weights of the same architecture.

    Raises:
        ConfigError: when there is none, or it belongs to another method, model or architecture.
    """
    how = f"errata train {cls.name} --model {model.name} --facts FACTS --out DIR"
    if not folder:
        raise ConfigError(
            f"method.checkpoint is not set, and {cls.name} edits by a network that is trained for the model. "
            f"Train one: {how}; then: -o method.checkpoint=DIR"
        )
    file = Path(folder) / NETWORK
    if not file.is_file():
        raise ConfigError(f"method.checkpoint is {folder!r}, but there is no {file}. Train a network: {how}")
    try:
        tensors, content = read_tensors(file)
        found = Checkpoint(**content)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as e:
        raise ConfigError(f"{file} is damaged or no network of ours ({e}). Train a network: {how}") from e
    if found.method != cls.name:
        raise ConfigError(f"{file} was trained for the method {found.method!r}; {cls.name!r} needs its own: {how}")
    try:
        network = cls.network(model, cls.Training.model_validate(found.settings), torch.Generator())
        network.load_state_dict(tensors)
    except (RuntimeError, ConfigError) as e:
        raise ConfigError(
            f"{file} was trained for {found.model}, whose matrices have other shapes or places than those of "
            f"{model.name} ({' '.join(str(e).split())[:300]}). Train one for it: {how}"
        ) from e
    if not other_weights and (what := deviation(model, found.fingerprint)):
        raise ConfigError(
            f"{file} was trained for {found.model}, and {model.name} is not that model: {what}. It is another model, "
            f"an edited one, or the same in another precision. Train one for it ({how}), or set "
            f"method.other_weights=true to edit with it all the same."
        )
    return network.to(model.device).requires_grad_(False).eval()


def digest(network: nn.Module | None) -> str:
    """Return a hash of a network's weights, which an editor keeps as its state."""
    tensors = network.state_dict() if network else {}
    return sha256(b"".join(t.cpu().numpy().tobytes() for t in tensors.values())).hexdigest()[:24]


def check_same(network: nn.Module | None, expected: str, folder: str) -> None:
    """Refuse to go on with another network than the edits were begun with.

    Raises:
        ResumeError: when it is another.
    """
    if digest(network) != expected:
        raise ResumeError(
            f"the network in {folder} is not the one with which the edits were begun; it has been trained anew. Put "
            f"the old one back, or start a new run."
        )


def write_tensors(file: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and a description as one safetensors file, aside first."""
    content = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    write_aside(file, save(content, metadata={"errata": json.dumps(description, sort_keys=True)}))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote."""
    with safe_open(file, framework="pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a mapping
        description = json.loads((f.metadata() or {})["errata"])
    return tensors, description
