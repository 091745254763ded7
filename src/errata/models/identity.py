"""A model's identity: every byte of its weights, what its configuration computes, and how its tokenizer reads."""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errata.files import cache_root, write_aside
from errata.models.editable import EditableModel

__all__ = ["Identity", "deviation", "identity_of"]

_FILES = {
    "weights": "its weights differ (*.safetensors)",
    "configuration": "its configuration differs (config.json)",
    "tokenizer": "its tokenizer differs (tokenizer.json, tokenizer_config.json or its chat template)",
}
# Records of where a configuration comes from, and switches of what a call returns: nothing computed depends on them.
_RECORDS = frozenset(
    {
        *(
            "transformers_version",
            "architectures",
            "dtype",
            "torch_dtype",
            "tokenizer_class",
            "problem_type",
            "id2label",
        ),
        *("label2id", "use_cache", "return_dict", "output_hidden_states", "output_attentions", "task_specific_params"),
    }
)
_PRECISIONS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_GLANCE = 4096  # entries that mostly tell that a tensor needs a higher precision
_REMEMBERED = 64  # models whose weights' hash is kept
_SAMPLE = 4096  # entries of a parameter, in the fingerprints of earlier versions


@dataclass(frozen=True)
class Identity:
    """A hash of each part of a model on which its answers depend.

    Args:
        weights: of every byte of its parameters and buffers; the same in every precision that holds them exactly.
        configuration: of what config.json says about the computation.
        tokenizer: of the tokenizer's serialised form, its special tokens and its chat template.
    """

    weights: str
    configuration: str
    tokenizer: str

    def __str__(self) -> str:
        return " ".join(f"{part}:{digest}" for part, digest in asdict(self).items())


def identity_of(model: EditableModel) -> Identity:
    """Return the identity of a model as it is in memory now, edits that are written into it included."""
    return Identity(_weights(model), _configuration(model.model.config), _tokenizer(model.tokenizer))


def deviation(model: EditableModel, recorded: str) -> str:
    """Say which part of a model is not as it was recorded, and in which file it lies; "" where nothing differs.

    Args:
        model: the model.
        recorded: an `Identity` as text. The fingerprint of an earlier version, a sample of the weights alone, is
            compared with the same sample.
    """
    if ":" not in recorded:
        return "" if _sampled(model) == recorded else _FILES["weights"]
    was = dict(part.split(":", 1) for part in recorded.split() if ":" in part)
    return " and ".join(_FILES[part] for part, now in asdict(identity_of(model)).items() if was.get(part) != now)


def _weights(model: EditableModel) -> str:
    """Hash the weights, or take the hash from the cache where files and a checksum of every byte are as they were."""
    files = _stamp(model.origin)
    if not files:
        return _hashed(model)
    cache = cache_root() / "identities.json"
    key, known = f"{model.origin} as {model.dtype}", _remembered(cache)
    belongs = {"files": files, "checksum": _checksum(model)}
    entry = known.pop(key, {})
    if any(entry.get(name) != value for name, value in belongs.items()):
        entry = {**belongs, "weights": _hashed(model)}
        kept = dict(list(known.items())[1 - _REMEMBERED :])
        with suppress(OSError):  # a cache that takes nothing costs time alone
            write_aside(cache, json.dumps({**kept, key: entry}).encode())
    return str(entry["weights"])


def _hashed(model: EditableModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.stored():
        exact = _narrowest(tensor)
        digest.update(f"{name}{tuple(exact.shape)}{exact.dtype}".encode())
        digest.update(_bytes(exact))
    return digest.hexdigest()[:32]


def _narrowest(tensor: Tensor) -> Tensor:
    """Return a tensor in the first precision that holds it exactly: bfloat16 loaded as float32 is the same weights."""
    for precision in _PRECISIONS[: _PRECISIONS.index(tensor.dtype)] if tensor.dtype in _PRECISIONS else ():
        glance = tensor.reshape(-1)[:_GLANCE]
        if all(torch.equal(t.to(precision).to(t.dtype), t) for t in (glance, tensor)):
            return tensor.to(precision)
    return tensor


def _checksum(model: EditableModel) -> int:
    """Return a CRC of the weights: several times faster than the hash, enough to notice that loaded weights changed."""
    found = 0
    for _, tensor in model.stored():
        found = zlib.crc32(_bytes(tensor), found)
    return found


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _stamp(origin: Path | None) -> list[list[Any]]:
    """Return name, size and time of change of the files with a model's weights; nothing where it was never in any."""
    found = sorted(origin.glob("*.safetensors")) if origin else []
    try:
        return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in found]
    except OSError:
        return []


def _remembered(cache: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: hashed anew
        return {}
    return {k: v for k, v in content.items() if isinstance(v, dict)} if isinstance(content, dict) else {}


def _configuration(config: Any) -> str:
    # What is at its default is left out: a later release of transformers that adds a setting changes nothing.
    return _digest(_computed(config.to_diff_dict()))


def _computed(content: Any) -> Any:
    if isinstance(content, Mapping):
        kept = ((str(k), v) for k, v in content.items() if k not in _RECORDS and not str(k).startswith("_"))
        return {k: _computed(v) for k, v in kept}
    return [_computed(v) for v in content] if isinstance(content, list | tuple) else content


def _tokenizer(tokenizer: Any) -> str:
    return _digest([*_serialised(tokenizer), tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)])


def _serialised(tokenizer: Any) -> Iterator[Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield from (type(tokenizer).__name__, tokenizer.get_vocab())
        return
    whole = backend.to_str()
    # Truncation and padding stand first; they are what the last call asked for, and no part of the tokenizer.
    yield whole[max(0, whole.find('"added_tokens"')) :]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _sampled(model: EditableModel) -> str:
    """Return the fingerprint of earlier versions: evenly strided entries of every parameter."""
    digest = hashlib.sha256(str(model.model.config.model_type).encode())
    for name, parameter in model.stored(buffers=False):
        flat = parameter.reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE) | 1]
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()
