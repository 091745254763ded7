"""Load a model by lab name, known name, directory, GGUF file or hub name, saying at once what is wrong with it."""

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from errata.errors import ConfigError, ModelError
from errata.files import read_text
from errata.models.editable import EditableModel
from errata.models.families import family_of
from errata.models.gguf import gguf_config, is_gguf, read_gguf
from errata.models.locating import cached, check_files, foreign_errors, has_tokenizer, locate
from errata.models.plain import check_config
from errata.models.published import published_config
from errata.models.tokens import log_remark

__all__ = ["device_of", "load", "outline"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_LOCAL: dict[str, Any] = {"local_files_only": True}


def load(
    name: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | Mapping[str, int | str] | None = None,
    tell: Callable[[str], None] = log_remark,
) -> EditableModel:
    """Load a causal language model with its tokenizer.

    Args:
        name: a lab model ("lab-s"), a known model ("smollm2-135m"), a directory in Hugging Face layout, a GGUF file
            (its weights are dequantised), or a hub name.
        dtype: precision of the weights: float64, float32, float16 or bfloat16.
        device: a torch device.
        device_map: how accelerate spreads the model over devices instead: "auto", "balanced", or a device for each
            module path ("cpu" and "disk" among them). Matrices on disk cannot be edited.
        tell: receives remarks on the model, one line each; by default they are logged as warnings of "errata".

    Raises:
        MissingExtraError: when a GGUF file is named and the packages that read it are not installed.
        ModelError: when there is no such model or its files cannot be read.
        UnsupportedModelError: when its architecture has no family.
        ConfigError: when dtype, device or device_map is unknown, or accelerate is missing.
    """
    kind = _dtype(dtype)
    if device_map is not None and find_spec("accelerate") is None:
        raise ConfigError("model.device_map needs accelerate, which is not installed: pip install 'errata[big]'.")
    target = device_of(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"model.device is {device!r}, but torch sees no CUDA device here. Use model.device=cpu.")
    path = locate(str(name))
    spread = {"device_map": dict(device_map) if isinstance(device_map, Mapping) else device_map} if device_map else {}
    # transformers draws its own bar and table for every load; ours is the only progress a user should see.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    read = _from_gguf if is_gguf(path) else _from_directory
    model, tokenizer, report = read(path, str(name), kind, spread, tell)
    # transformers fills what is missing or has another shape with random numbers and goes on.
    if absent := sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]):
        raise ModelError(
            f"{name}: the weights lack {len(absent)} of the parameters that config.json asks for, or hold them in "
            f"another shape, {absent[0]} first; weights and config.json do not belong together."
        )
    if device_map is None:
        torch.nn.Module.to(model, device=target)
    else:
        _check_spread(model.hf_device_map)
    origin = None if is_gguf(path) else path
    return EditableModel(model, tokenizer, str(name), _recommended(path), tell, origin)


def _from_directory(
    path: Path, name: str, kind: torch.dtype, spread: dict[str, Any], tell: Callable[[str], None]
) -> tuple[Any, Any, dict[str, Any]]:
    """Return model and tokenizer of a directory, and what the weights lack."""
    check_files(path, name)
    with foreign_errors(f"{name}: the model cannot be loaded"):
        _checked(AutoConfig.from_pretrained(path, **_LOCAL), name)
        tokenizer = AutoTokenizer.from_pretrained(path, **_LOCAL)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=kind,
            use_safetensors=True,
            **spread,
            ignore_mismatched_sizes=True,  # reported by name
            output_loading_info=True,
            **_LOCAL,
        )
    model, report = loaded
    return model, tokenizer, report


def _from_gguf(
    path: Path, name: str, kind: torch.dtype, spread: dict[str, Any], tell: Callable[[str], None]
) -> tuple[Any, Any, dict[str, Any]]:
    """Return model and tokenizer of a GGUF file, and what it lacks; tell how much memory plain numbers take."""
    with foreign_errors(f"{name}: the GGUF file cannot be read; it is damaged, or of a kind that transformers lacks"):
        config = _checked(gguf_config(path), name)
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(config, dtype=kind)  # type: ignore[no-untyped-call]
        size = sum(p.numel() * p.element_size() for p in shape.parameters()) / 1e9
        precision = str(kind).removeprefix("torch.")
        tell(
            f"{name}: a GGUF file; its weights are dequantised to {precision}: {size:.2g} GB of memory, and about "
            f"twice that while they are read."
        )
        return read_gguf(path, config, kind, **spread)


def _checked(config: Any, name: str) -> PreTrainedConfig:
    """Return a configuration whose family is declared and whose weights are plain."""
    assert isinstance(config, PreTrainedConfig)
    family_of(str(config.model_type))
    check_config(config, name)
    return config


def _check_spread(parts: Mapping[str, object]) -> None:
    """Refuse a model over several devices: token positions are looked up by tensors on its first one."""
    devices = sorted({str(device) for device in parts.values()} - {"cpu", "disk"})
    if len(devices) > 1:
        raise ConfigError(
            f"model.device_map has spread the model over {len(devices)} devices ({', '.join(devices)}), which is not "
            f"supported: give it one, with other parts on the cpu or on disk, for instance with "
            f"CUDA_VISIBLE_DEVICES=0 and model.device_map=auto."
        )


def outline(name: str | Path, *, dtype: str = "float32") -> EditableModel:
    """Build a model without its weights, from `config.json` alone: every shape is there, and no number.

    The papers' own models need not be there at all: their architecture is known.

    Args:
        name: as for `load`; a directory needs no other file.
        dtype: precision that the weights would have.

    Raises:
        ModelError: when there is no such model or its configuration cannot be read.
        UnsupportedModelError: when its architecture has no family.
        ConfigError: when dtype is unknown.
    """
    kind = _dtype(dtype)
    known = published_config(str(name))
    path = None if known and not Path(name).is_dir() and not cached(str(name)) else locate(str(name))
    nothing = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=nothing)  # type: ignore[no-untyped-call]
    with foreign_errors(f"{name}: the model cannot be outlined"):
        if path is None:
            config: Any = AutoConfig.for_model(**known or {})
        else:
            config = gguf_config(path) if is_gguf(path) else AutoConfig.from_pretrained(path, **_LOCAL)
        _checked(config, str(name))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=kind)  # type: ignore[no-untyped-call]
        if path is not None and has_tokenizer(path):
            tokenizer = AutoTokenizer.from_pretrained(path, **_LOCAL)
    # What is unusual about the tokenizer is told when the model is loaded.
    return EditableModel(model, tokenizer, str(name), _recommended(path) if path else {}, tell=lambda message: None)


def device_of(name: str) -> torch.device:
    """Return the device of this name, which need not be in this machine.

    Raises:
        ConfigError: when torch does not know it.
    """
    try:
        return torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"model.device is {name!r}, which torch does not know: {e}") from e


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ConfigError(f"model.dtype is {name!r}; known: {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def _recommended(path: Path) -> dict[str, dict[str, object]]:
    """Read the settings that a model's directory recommends, a section a method."""
    file = path / "editing.json"
    if not file.exists():
        return {}
    try:
        content = json.loads(read_text(file, ModelError))
    except ValueError as e:
        raise ModelError(f"{file} is not valid JSON ({e}). Mend or remove it.") from e
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise ModelError(f'{file} must hold settings for each method, such as {{"rome": {{"layer": 2}}}}.')
    return content
