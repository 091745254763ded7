"""The edits as a LoRA adapter in peft's format, which peft and vLLM switch on and off beside the unedited model."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from safetensors.torch import save

from errata.editors.update import Change
from errata.errors import ConfigError, MissingExtraError
from errata.export.factors import Factors, factorise
from errata.files import write_aside
from errata.models import EditableModel
from errata.models.known import name_elsewhere
from errata.trajectory import Trajectory

__all__ = ["SERVED_RANKS", "adapter", "peft", "served_rank", "write_adapter"]

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `max_lora_rank` may be (vllm/config/lora.py)."""


def peft() -> ModuleType:
    """Return peft, or say how to install it."""
    try:
        import peft as found
    except ImportError as e:
        raise MissingExtraError("an adapter", "lora") from e
    return found


def adapter(trajectory: Trajectory, rank: int | None) -> dict[str, Factors]:
    """Return the factors of everything that is applied, for every edited matrix.

    Args:
        trajectory: the edited model's.
        rank: keep so many singular values of each matrix at most; all when None.

    Raises:
        ConfigError: when an adapter cannot hold the edits, or would be larger than what it stands for.
        NumericalError: when an update holds NaN or infinity.
    """
    changes: dict[str, list[Change]] = {}
    for step in trajectory.journal.active_steps(trajectory.step):
        for path, change in trajectory.journal.update(step).changes.items():
            changes.setdefault(path, []).append(change)
    if biases := [path for path in changes if path.endswith(".bias")]:
        raise ConfigError(
            f"the edits change biases ({biases[0]}{', ...' if len(biases) > 1 else ''}), and an adapter that is served "
            f"holds none. Export the weights (--as full), or make the edits without them (-o method.bias=false)."
        )
    found = {path: factorise(parts, rank, path) for path, parts in changes.items()}
    for path, factors in found.items():
        if factors.dense and not factors.saves and rank is None:
            d_out, d_in = factors.change.left.shape[0], factors.change.right.shape[1]
            raise ConfigError(
                f"the edits change {path} ({d_out} × {d_in}) in {factors.numerical} of its {min(d_out, d_in)} "
                f"directions: an adapter of that rank is larger than the matrix. Export the weights (--as full), or "
                f"say how many directions to keep: --rank R; what is lost is measured."
            )
    if not (kept := {path: factors for path, factors in found.items() if factors.rank}):
        raise ConfigError("the edits add up to no change of any matrix, so there is nothing to make an adapter of.")
    return kept


def served_rank(factors: Mapping[str, Factors]) -> int | None:
    """Return the least `max_lora_rank` with which vLLM serves an adapter; None where it serves none so large."""
    highest = max(f.rank for f in factors.values())
    return next((rank for rank in SERVED_RANKS if rank >= highest), None)


def write_adapter(model: EditableModel, factors: Mapping[str, Factors], folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    alpha equals r, for every matrix by itself in peft and for all together in vLLM, which divides one alpha by one r:
    the factors are added as they are. Neither biases nor whole modules are stored.

    Args:
        model: the model, for its layout.
        factors: for every edited matrix.
        folder: where to.
    """
    r = max(f.rank for f in factors.values())
    others = {path: f.rank for path, f in factors.items() if f.rank != r}
    config = peft().LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=name_elsewhere(model.name),
        inference_mode=True,
        r=r,
        lora_alpha=r,
        lora_dropout=0.0,
        rank_pattern=others,
        alpha_pattern=others,
        target_modules=sorted(factors),
        fan_in_fan_out=model.family.layout == "in_out",
        bias="none",
    )
    # peft keeps sets and writes them in no order.
    content = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    write_aside(folder / "adapter_config.json", (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    tensors = {}
    for path, f in factors.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = f.change.right.contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = f.change.left.contiguous()
    write_aside(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
