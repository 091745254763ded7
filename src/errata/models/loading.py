"""Load a model by lab name, directory or hub name, saying at once what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from errata.errors import ConfigError, ModelError
from errata.lab.models import LAB_MODELS, asset_path
from errata.models.editable import EditableModel
from errata.models.families import family_of

__all__ = ["load"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_HUB_TIMEOUT_S = 3.0
# Without any of these transformers makes an empty tokenizer and says nothing.
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*")


def load(name: str | Path, *, dtype: str = "float32", device: str = "cpu") -> EditableModel:
    """Load a causal language model with its tokenizer.

    Args:
        name: a lab model ("lab-s"), a directory in Hugging Face layout, or a hub name.
        dtype: precision of the weights: float64, float32, float16 or bfloat16.
        device: a torch device.

    Raises:
        ModelError: when there is no such model or its files cannot be read.
        UnsupportedModelError: when its architecture has no family.
        ConfigError: when dtype or device is unknown.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"model.dtype is {dtype!r}; known: {', '.join(_DTYPES)}.")
    try:
        target = torch.device(device)
    except RuntimeError as e:
        raise ConfigError(f"model.device is {device!r}, which torch does not know: {e}") from e
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"model.device is {device!r}, but torch sees no CUDA device here. Use model.device=cpu.")
    path = _locate(str(name))
    _check_files(Path(path))
    settings = _recommended(Path(path) / "editing.json")
    offline: dict[str, Any] = {"local_files_only": True}
    # transformers draws its own bar and table for every load; ours is the only progress a user should see.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        family_of(str(AutoConfig.from_pretrained(path, **offline).model_type))
        tokenizer = AutoTokenizer.from_pretrained(path, **offline)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=_DTYPES[dtype],
            use_safetensors=True,
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
    torch.nn.Module.to(model, device=target)
    return EditableModel(model, tokenizer, str(name), settings)


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
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    hint = f"Known lab models: {', '.join(LAB_MODELS)}. Otherwise give a directory, or a hub name while online."
    try:
        return snapshot_download(name, allow_patterns=wanted, local_files_only=True)
    except HFValidationError as e:
        raise ModelError(f"{name!r} is no lab model, no directory here, and no possible hub name. {hint}") from e
    except LocalEntryNotFoundError:
        pass
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
    return snapshot_download(name, allow_patterns=wanted)


def _recommended(file: Path) -> dict[str, dict[str, object]]:
    """Read the settings that a model's directory recommends, a section a method."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
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
