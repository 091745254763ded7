"""Where a model's files are: a lab model, a known model, a directory, a GGUF file, or the hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from errata.errors import ErrataError, ModelError
from errata.lab.models import LAB_MODELS, asset_path
from errata.models.gguf import is_gguf
from errata.models.known import KNOWN_MODELS
from errata.models.plain import quantised

__all__ = ["cached", "check_files", "foreign_errors", "has_tokenizer", "locate"]

_HUB_TIMEOUT_S = 3.0
_WANTED = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]
# Without any of these transformers makes an empty tokenizer and says nothing.
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*")
_PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")


@contextmanager
def foreign_errors(what: str) -> Iterator[None]:
    """Turn whatever another library raises inside the block into a `ModelError`; a bug of ours keeps its traceback.

    Args:
        what: begins the message, such as "gpt2: the model cannot be loaded".
    """
    try:
        yield
    except ErrataError:
        raise
    except Exception as e:
        frame = e.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith("errata."):
            raise
        said = re.sub(r"\s+", " ", str(e)).strip()
        kind = "" if isinstance(e, OSError | ValueError | SafetensorError) and said else f"{type(e).__name__}: "
        raise ModelError(f"{what}: {kind}{said}".rstrip(": ")) from e


def locate(name: str) -> Path:
    """Return the directory or the GGUF file of a model, fetching from the hub only what is not there.

    Args:
        name: as for `load`.

    Raises:
        ModelError: when there is none.
    """
    if name in LAB_MODELS:
        return asset_path(name)
    if name in KNOWN_MODELS and KNOWN_MODELS[name].here:
        return KNOWN_MODELS[name].directory
    path = Path(name)
    if path.is_dir():
        return _directory(path)
    if is_gguf(name):
        if not path.is_file():
            raise ModelError(f"there is no file {name}.")
        return path
    if path.exists():
        raise ModelError(f"{name} is a file; a model is a directory in Hugging Face layout, or a GGUF file.")
    if name in KNOWN_MODELS:
        known = KNOWN_MODELS[name]
        try:
            return _from_hub(known.hub)
        except ModelError as e:
            raise ModelError(
                f"{name} is not in {known.directory}. In a checkout of Errata, `make models MODELS={name}` makes it; "
                f"else it is fetched from the hub as {known.hub}, which failed: {e}"
            ) from e
    return _from_hub(name)


def _directory(path: Path) -> Path:
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{path} holds an adapter (adapter_config.json). Merge it into its model first, with peft's "
            f"merge_and_unload() and save_pretrained(), or give the model that it belongs to."
        )
    if not (path / "config.json").exists():
        hint = f" Give the file: {files[0]}." if (files := sorted(path.glob("*.gguf"))) else ""
        raise ModelError(f"{path} is a directory without config.json; a Hugging Face model directory is needed.{hint}")
    return path


def _from_hub(name: str) -> Path:
    """Return the snapshot directory of a hub model, asking the hub once and briefly.

    transformers itself retries for half a minute and prints every failure.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    lab, known = ", ".join(LAB_MODELS), ", ".join(KNOWN_MODELS)
    hint = f"Known models: {lab}, {known}. Otherwise give a directory, a GGUF file, or a hub name while online."
    try:
        if found := cached(name):
            return found
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
    with foreign_errors(f"{name}: the hub does not give the model"):
        return Path(snapshot_download(name, allow_patterns=_WANTED))


def cached(name: str) -> Path | None:
    """Return the directory of a hub model that was fetched before; None where it was not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def has_tokenizer(path: Path) -> bool:
    """Say whether a directory holds a tokenizer."""
    return any(list(path.glob(pattern)) for pattern in _TOKENIZER_FILES)


def check_files(path: Path, name: str) -> None:
    """Open every weights file's header, so that a truncated one is named before anything is built from it.

    Raises:
        ModelError: when files lack, are damaged, or hold quantised weights.
    """
    if not has_tokenizer(path):
        raise ModelError(f"{path} holds no tokenizer ({', '.join(_TOKENIZER_FILES)}); put the model's own beside it.")
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{path} holds no *.safetensors; Errata reads no pickled weights. Convert them with save_pretrained()."
        )
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                weights = [key for key in opened.keys() if key.endswith((".weight", ".qweight"))]  # noqa: SIM118
                stored = {str(opened.get_slice(key).get_dtype()) for key in weights}
        except (SafetensorError, OSError) as e:
            raise ModelError(
                f"{file} is damaged or cut short ({e}; {file.stat().st_size} bytes). Fetch or write it again."
            ) from e
        if odd := sorted(stored.difference(_PLAIN_DTYPES)):
            raise quantised(name, f"{file.name} stores weights as {', '.join(odd)}")
