"""GGUF files: quantised weights are read as plain numbers, so that the model can be edited and saved like any other."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils.quantization_config import GgufConfig

from errata.errors import MissingExtraError

__all__ = ["gguf_config", "is_gguf", "read_gguf"]


def is_gguf(name: str | Path) -> bool:
    """Say whether a name is that of a GGUF file."""
    return Path(name).suffix.lower() == ".gguf"


def gguf_config(file: Path) -> PreTrainedConfig:
    """Read a model's configuration from its GGUF file.

    Raises:
        MissingExtraError: when the packages that read GGUF are not installed.
    """
    if not all(find_spec(package) for package in ("gguf", "accelerate")):
        raise MissingExtraError("reading GGUF files", "gguf")
    with _quiet():
        config: Any = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    # The name that the file's author gave; saved, it would stand in config.json as a setting.
    config.__dict__.pop("_model_name_or_path", None)
    assert isinstance(config, PreTrainedConfig)
    return config


def read_gguf(
    file: Path, config: PreTrainedConfig, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, Any, dict[str, Any]]:
    """Read a model from a GGUF file, every weight dequantised, with the tokenizer and chat template of the file.

    Args:
        file: the GGUF file.
        config: from `gguf_config`.
        dtype: precision of the weights.
        options: of `from_pretrained`, such as `device_map`.

    Returns:
        The model, its tokenizer, and what transformers reports of keys that are missing or have another shape.
    """
    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        for option in source:  # saved with the tokenizer, they would be followed when it is loaded again
            tokenizer.init_kwargs.pop(option, None)
        read: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            config=config,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **source,
        )
        loaded, report = read
        # It counts as quantised although its weights are plain, and cannot be saved: they are handed to a new one.
        plain = loaded.config
        if hasattr(plain, "quantization_config"):
            del plain.quantization_config
        model = type(loaded).from_pretrained(
            None, config=plain, state_dict=loaded.state_dict(), dtype=dtype, generation_config=None, **options
        )
        model.generation_config = loaded.generation_config
    return model, tokenizer, report


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what transformers has to say of every key of a GGUF file, its bars among it."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers.utils.logging.set_verbosity(before)
