"""Read and change activations of a plain model for the time of one `with` block."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Activation", "add_to_outputs", "cache_given", "cache_to", "capture", "hidden_of", "with_hidden"]


@dataclass
class Activation:
    """What one module received and returned in its last call; `whole` is its output in the shape in which it came."""

    input: Tensor
    output: Tensor
    whole: Any


class _StopForwardError(Exception):
    """Ends a forward pass once everything asked for has been seen."""


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states of a module's output.

    transformers 5 blocks return a tensor, older ones and attention modules a tuple: `output[0]` on a tensor would
    silently be the first row of the batch.
    """
    if isinstance(output, Tensor):
        return output
    first = output[0]
    assert isinstance(first, Tensor)
    return first


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return `output` with its hidden states replaced, in the shape in which it came."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def cache_to(model: nn.Module, cache: Any) -> dict[str, Any]:
    """Return the keyword argument that gives a model attention keys and values to read on behind.

    transformers 5.24 calls it `cache`; before, it was `past_key_values`.
    """
    named = "cache" in inspect.signature(type(model).forward).parameters
    return {"cache" if named else "past_key_values": cache}


def cache_given(kwargs: Mapping[str, Any]) -> Any:
    """Return the attention keys and values that a model was given, by either name; None where it was given none."""
    return kwargs.get("cache", kwargs.get("past_key_values"))


def _received(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a module was given; of a row-parallel projection, which sees a part of its input, the whole."""
    received: Tensor = args[0] if args else kwargs["hidden_states"]
    weight: Any = getattr(module, "weight", None)
    if not hasattr(weight, "device_mesh") or received.shape[-1] == weight.shape[-1]:
        return received
    from torch.distributed.tensor import DTensor, Shard

    parts = DTensor.from_local(received, weight.device_mesh, [Shard(received.ndim - 1)])
    whole: Tensor = parts.full_tensor()
    return whole


@contextmanager
def _registered(handles: Sequence[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture(root: nn.Module, paths: Sequence[str], *, stop: bool = True) -> Iterator[dict[str, Activation]]:
    """Collect input and output of modules during the forward passes made inside the block.

    Args:
        root: the model.
        paths: module paths.
        stop: end the forward as soon as every path has been seen; nothing above them is computed.
    """
    seen: dict[str, Activation] = {}

    def hook(path: str) -> Callable[..., None]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
            received = _received(module, args, kwargs)
            seen[path] = Activation(received, hidden_of(output), output)
            if stop and len(seen) == len(set(paths)):
                raise _StopForwardError

        return record

    handles = [root.get_submodule(p).register_forward_hook(hook(p), with_kwargs=True) for p in paths]
    with _registered(handles), suppress(_StopForwardError):
        yield seen


@contextmanager
def add_to_outputs(root: nn.Module, additions: Mapping[str, Callable[[Tensor, Tensor], Tensor]]) -> Iterator[None]:
    """Change module outputs inside the block.

    Args:
        root: the model.
        additions: for a module path, a function of (the module's input, its hidden output) that returns the new output.
    """

    def hook(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
        def apply(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
            received = _received(module, args, kwargs)
            return with_hidden(output, change(received, hidden_of(output)))

        return apply

    handles = [
        root.get_submodule(path).register_forward_hook(hook(change), with_kwargs=True)
        for path, change in additions.items()
    ]
    with _registered(handles):
        yield
