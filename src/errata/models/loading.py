"""Load a model by lab name, directory or hub name, saying at once what is wrong with it."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from errata.errors import ConfigError, ModelError
from errata.files import read_text
from errata.lab.models import LAB_MODELS, asset_path
from errata.models.editable import EditableModel
from errata.models.families import family_of
from errata.models.published import published_config

__all__ = ["device_of", "load", "outline"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_HUB_TIMEOUT_S = 3.0
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
# Without any of these transformers makes an empty tokenizer and says nothing.
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*")


def load(
    name: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | Mapping[str, int | str] | None = None,
) -> EditableModel:
    """Load a causal language model with its tokenizer.

    Args:
        name: a lab model ("lab-s"), a directory in Hugging Face layout, or a hub name.
        dtype: precision of the weights: float64, float32, float16 or bfloat16.
        device: a torch device.
        device_map: how accelerate spreads the model over devices instead: "auto", "balanced", or a device for each
            module path ("cpu" and "disk" among them). Matrices on disk cannot be edited.

    Raises:
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
    path = _locate(str(name))
    _check_files(Path(path))
    spread = {"device_map": dict(device_map) if isinstance(device_map, Mapping) else device_map} if device_map else {}
    settings = _recommended(Path(path) / "editing.json")
    offline: dict[str, Any] = {"local_files_only": True}
    # transformers draws its own bar and table for every load; ours is the only progress a user should see.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        family_of(str(AutoConfig.from_pretrained(path, **offline).model_type))
        tokenizer = AutoTokenizer.from_pretrained(path, **offline)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=kind,
            use_safetensors=True,
            **spread,
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
            **offline,
        )
    except (OSError, ValueError, SafetensorError) as e:
        raise ModelError(f"{name}: the model cannot be loaded: {e}") from e
    model, report = loaded
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
    return EditableModel(model, tokenizer, str(name), settings, Path(path))


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
    if known is None or Path(name).is_dir() or _cached(str(name)):
        path, known = Path(_locate(str(name))), None
    settings = {} if known else _recommended(path / "editing.json")
    try:
        config: Any = (
            AutoConfig.for_model(**known) if known else AutoConfig.from_pretrained(path, local_files_only=True)
        )
        family_of(str(config.model_type))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=kind)  # type: ignore[no-untyped-call]
        if not known and any(list(path.glob(pattern)) for pattern in _TOKENIZER_FILES):
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        else:
            empty = Tokenizer(WordLevel())
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=empty)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as e:
        raise ModelError(f"{name}: the model cannot be outlined: {e}") from e
    return EditableModel(model, tokenizer, str(name), settings)


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


def _locate(name: str) -> str:
    """Return a local path for `name`, fetching from the hub only what is not there."""
    if name in LAB_MODELS:
        return str(asset_path(name))
    if Path(name).is_dir():
        if not (Path(name) / "config.json").exists():
            raise ModelError(f"{name} is a directory without config.json; a Hugging Face model directory is needed.")
        return name
    if Path(name).exists():
        raise ModelError(f"{name} is a file; a model is a directory in Hugging Face layout.")
    return _from_hub(name)


def _from_hub(name: str) -> str:
    """Return the snapshot directory of a hub model, asking the hub once and briefly.

    transformers itself retries for half a minute and prints every failure.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hint = f"Known lab models: {', '.join(LAB_MODELS)}. Otherwise give a directory, or a hub name while online."
    try:
        if cached := _cached(name):
            return cached
    except HFValidationError as e:
        raise ModelError(f"{name!r} is no lab model, no directory here, and no possible hub name. {hint}") from e
    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"{name!r} is no lab model and no directory here, and hub access is switched off. {hint}")
    try:
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_S)
    except HfHubHTTPError as e:
        raise ModelError(f"{name!r} is no directory here, and the hub refuses it: {e}. {hint}") from e
    except Exception as e:
        raise ModelError(
            f"{name!r} is no lab model and no directory here, and the hub cannot be reached ({type(e).__name__}). "
            f"{hint}"
        ) from e
    return snapshot_download(name, allow_patterns=_WANTED)


def _cached(name: str) -> str | None:
    """Return the directory of a hub model that was fetched before; None where it was not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(name, allow_patterns=_WANTED, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def _recommended(file: Path) -> dict[str, dict[str, object]]:
    """Read the settings that a model's directory recommends, a section a method."""
    if not file.exists():
        return {}
    try:
        content = json.loads(read_text(file, ModelError))
    except ValueError as e:
        raise ModelError(f"{file} is not valid JSON ({e}). Mend or remove it.") from e
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise ModelError(f'{file} must hold settings for each method, such as {{"rome": {{"layer": 2}}}}.')
    return content


def _check_files(path: Path) -> None:
    """Open every weights file's header, so that a truncated one is named before anything is built from it."""
    if not any(list(path.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ModelError(f"{path} holds no tokenizer ({', '.join(_TOKENIZER_FILES)}); put the model's own beside it.")
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{path} holds no *.safetensors; Errata reads no pickled weights. Convert them with save_pretrained()."
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as e:
            raise ModelError(
                f"{file} is damaged or cut short ({e}; {file.stat().st_size} bytes). Fetch or write it again."
            ) from e
