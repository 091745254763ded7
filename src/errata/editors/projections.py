"""Which linear projections of a model a setting names."""

from collections.abc import Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from errata.errors import ConfigError, did_you_mean
from errata.models import EditableModel

__all__ = ["projection", "projections"]


def projections(model: EditableModel, names: Sequence[str], layers: Sequence[int] = ()) -> list[str]:
    """Return the paths of the linear projections that are, or lie in, a module so named.

    Args:
        model: the model.
        names: the end of a path ("q_proj", "mlp.up_proj", "18.mlp.up_proj"), or of that of a module around
            projections ("attn").
        layers: only in these blocks; in all when empty.

    Raises:
        ConfigError: when a name fits no projection.
    """
    blocks = [model.block_path(layer) for layer in layers or range(model.n_layers)]
    paths = [
        f"{block}.{path}"
        for block in blocks
        for path, module in model.module(block).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    chosen = {path for path in paths for name in names if f".{name}." in f".{path}."}
    for name in names:
        if not any(f".{name}." in f".{path}." for path in paths):
            ends = sorted({path.rpartition(".")[2] for path in paths})
            hint = did_you_mean(name, [*ends, *paths])
            raise ConfigError(
                f"'modules' (or 'module') names {name!r}, but {model.name} has no such projection; it has {ends}.{hint}"
            )
    return [path for path in paths if path in chosen]


def projection(model: EditableModel, name: str, layer: int) -> str:
    """Return the path of the one linear projection of a block that a setting names.

    Args:
        model: the model.
        name: the end of its path ("mlp.c_fc").
        layer: the block.

    Raises:
        ConfigError: when the name fits none, or several.
    """
    found = projections(model, [name], [layer])
    if len(found) > 1:
        ends = ", ".join(path.removeprefix(f"{model.block_path(layer)}.") for path in found)
        raise ConfigError(
            f"'module' names {name!r}, which holds several projections of {model.name}: {ends}. Name one."
        )
    return found[0]
