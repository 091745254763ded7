"""Run only what an edit can change: the layers above it, from the edited position on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.func import functional_call
from transformers import Cache, DynamicCache

from errata.errors import ModelError
from errata.models.editable import EditableModel
from errata.models.hooks import cache_to, capture, hidden_of
from errata.models.kernels import filled, kernels_for, running

__all__ = ["UpperLayers", "multiplies_bfloat16", "shift"]


def shift(norm: nn.Module | None, written: Float[Tensor, "n d"], delta: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return what δ at the output v of W adds to the block's output.

    δ itself where v enters the residual stream as it is; N(v + δ) − N(v) where a norm N lies between.
    """
    if norm is None:
        return delta
    written = written.to(delta.dtype)
    moved: Tensor = norm(written + delta) - norm(written)
    return moved


class UpperLayers:
    """Hold prompts' hidden states after block `layer`, from one position a prompt on, and run the blocks above it.

    One ordinary pass over whole prompts gives all that is constant: the hidden states, the attention keys and values of
    the tokens before `starts`, and the arguments that the model itself hands to each block (masks, positions). Then the
    remaining tokens of several prompts are laid behind one another in one line, so that none is padded to another's
    length; in the line's mask each token sees those of its own prompt that the model lets it see.

    Args:
        model: the model.
        layer: the block l whose output is held; blocks l+1 and up are run by `logits`.
        rows: token ids of each prompt.
        starts: for each prompt, the first position that may change; `positions` below are counted from there.
        lines: for each prompt, its line, ascending from 0 without gaps; by default every prompt has its own.
        watch: module paths whose outputs in that pass are kept as well, in `outputs`.
        rerun: hold what enters the block instead, and run it too: for changes inside it.
        lengths: how many tokens of each prompt the others may see; those after it are padding.
        bfloat16: read the matrices of the blocks that are run again in bfloat16, where the model is in float32 and its
            device multiplies in bfloat16. Between them the residual stream stays in float32, and so do norms and
            logits.
        often: whether the blocks are run so often that laying their matrices out for it pays.

    Raises:
        ModelError: when attention is computed by a kernel that takes no mask of tokens against tokens.
    """

    def __init__(
        self,
        model: EditableModel,
        layer: int,
        rows: Sequence[Sequence[int]],
        starts: Sequence[int],
        lines: Sequence[int] | None = None,
        watch: tuple[str, ...] = (),
        rerun: bool = False,
        lengths: Sequence[int] | None = None,
        bfloat16: bool = False,
        often: bool = True,
    ) -> None:
        kernel = model.model.config._attn_implementation
        if kernel not in ("sdpa", "eager"):
            raise ModelError(
                f"{model.name} computes attention with {kernel!r}, which cannot run part of a prompt behind kept keys; "
                "load it with attn_implementation='sdpa'."
            )
        self._first = layer if rerun else layer + 1
        self._blocks = [model.block(i) for i in range(self._first, model.n_layers)]
        self._device = model.device.type
        halved = bfloat16 and multiplies_bfloat16(self._device)
        self._matrices = [_halved(block) if halved else {} for block in self._blocks]
        self._read = model.logits
        # What is changed inside the last block must find all of its tokens.
        top = self._blocks[-1] if self._blocks and not (rerun and layer == model.n_layers - 1) else None
        self._top_mlp = None if top is None else top.get_submodule(model.family.mlp)
        self._lines = _Lines(rows, starts, list(range(len(rows))) if lines is None else lines, model.device)
        self._kernels = kernels_for(self._blocks, self._lines.tokens if often and not halved else None)
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        paths = {model.block_path(layer), *watch}
        with torch.no_grad():
            self._run_once(model, rows, lengths, paths)
            block = self._seen[model.block_path(layer)]
            self.hidden: Float[Tensor, "line token d"] = self._lines.take(block.input if rerun else block.output)
            self.outputs: dict[str, Float[Tensor, "line token d"]] = {
                path: self._lines.take(self._seen[path].output) for path in paths
            }
        del self._seen

    def _run_once(
        self, model: EditableModel, rows: Sequence[Sequence[int]], lengths: Sequence[int] | None, paths: set[str]
    ) -> None:
        tokens = model.pad([[*row, model.pad_id] for row in rows])
        width = tokens.input_ids.shape[1]
        columns = torch.arange(width, device=model.device)
        # No real token sees what stands to its right, so padding need not be masked, and a window that it fills must
        # not be. The last column is: no model leaves out its masks then.
        seen = torch.tensor([width - 1] * len(rows) if lengths is None else lengths, device=model.device)
        cache = DynamicCache()  # without a configuration no layer forgets what its window has left behind
        raw: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raw.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))

        handles = [block.register_forward_pre_hook(record, with_kwargs=True) for block in self._blocks]
        try:
            watched = sorted({*paths, model.block_path(model.n_layers - 1)})
            with running(self._kernels), capture(model.model, watched) as self._seen:
                model.model(
                    input_ids=tokens.input_ids,
                    attention_mask=(columns < seen[:, None]).to(tokens.attention_mask.dtype),
                    position_ids=columns.clamp(max=max(width - 2, 0))[None],
                    use_cache=True,
                    **cache_to(model.model, cache),
                )
        finally:
            for handle in handles:
                handle.remove()
        kept: dict[int, Any] = {i: cache.layers[i] for i in range(self._first, model.n_layers)}
        self._kept = _KeptKeys({i: (self._lines.before(k.keys), self._lines.before(k.values)) for i, k in kept.items()})

        def laid_out(value: Tensor) -> Tensor:
            if value.ndim == 4:
                return self._lines.mask(value)
            return self._lines.take(value.expand(len(rows), *value.shape[1:]))

        self._calls = _mapped(raw, laid_out, self._kept)

    def at(self, prompts: Sequence[int], positions: Sequence[int]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Return line and token in `hidden` of positions of prompts, which are counted from the prompts' starts."""
        return self._lines.at(prompts, positions)

    def keep(self, prompts: Sequence[int]) -> None:
        """Go on with these prompts alone, all of the lines in which they lie; what is not kept is freed.

        They are numbered anew, in their order.
        """
        lines = self._lines.keep(prompts)
        self.hidden = self.hidden[lines]
        self.outputs = {path: output[lines] for path, output in self.outputs.items()}
        self._kept.keep(lines)
        self._calls = _mapped(self._calls, lambda value: value[lines], self._kept)

    def logits(
        self, hidden: Float[Tensor, "line token d"], places: tuple[Int[Tensor, " n"], Int[Tensor, " n"]]
    ) -> Float[Tensor, "n vocab"]:
        """Return the logits at places when block `layer` had returned (with `rerun`: received) `hidden`.

        Args:
            hidden: the block's output, or input, from each prompt's start on.
            places: lines and tokens, see `at`; no two the same.
        """
        with self._reading(places):
            for block, matrices, (args, kwargs) in zip(self._blocks, self._matrices, self._calls, strict=True):
                hidden = hidden_of(functional_call(block, matrices, (hidden, *args), kwargs))
        return self._read(filled(hidden[places]))[: len(places[0])]

    def run_block(
        self, layer: int, hidden: Float[Tensor, "row token d"], lines: Int[Tensor, " row"]
    ) -> Float[Tensor, "row token d"]:
        """Run one block by itself, on rows that stand where lines do; any line may be asked for any number of times.

        Args:
            layer: the block.
            hidden: what it receives, from each line's start on.
            lines: for each row, the line behind whose kept keys it stands.
        """
        index = layer - self._first
        args, kwargs = _mapped(self._calls[index], lambda value: value[lines], self._kept.of(layer, lines))
        with self._precision(), running(self._kernels):
            return hidden_of(functional_call(self._blocks[index], self._matrices[index], (hidden, *args), kwargs))

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device, torch.bfloat16) if any(self._matrices) else nullcontext()

    @contextmanager
    def _reading(self, places: tuple[Tensor, Tensor]) -> Iterator[None]:
        """Let blocks read matrices in the precision asked for, the last one's feed-forward at places alone."""
        with ExitStack() as stack:
            stack.enter_context(running(self._kernels))
            stack.enter_context(self._precision())
            if self._top_mlp is not None:
                stack.enter_context(_only(self._top_mlp, places))
            yield


def multiplies_bfloat16(device: str) -> bool:
    """Return whether a kind of device multiplies matrices in bfloat16 with instructions made for vectors.

    On a processor that is oneDNN's to say; where it cannot, such a product is computed one element at a time, ten to
    thirty times slower than in float32.
    """
    if device == "cpu":
        supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return bool(torch.backends.mkldnn.is_available() and supported is not None and supported())  # type: ignore[no-untyped-call]
    return device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def _halved(block: nn.Module) -> dict[str, Tensor]:
    """Return a block's float32 matrices in bfloat16; none where accelerate fetches them for every pass."""
    matrices = {name: p.detach() for name, p in block.named_parameters() if p.ndim == 2 and p.dtype == torch.float32}
    return {} if any(p.is_meta for p in matrices.values()) else {n: p.bfloat16() for n, p in matrices.items()}


class _Lines:
    """Which token of which prompt stands where in lines of prompts."""

    def __init__(
        self, rows: Sequence[Sequence[int]], starts: Sequence[int], lines: Sequence[int], device: torch.device
    ) -> None:
        self._line = list(lines)
        self._first: list[int] = []
        tails: list[list[tuple[int, int]]] = [[] for _ in range(max(lines) + 1)]
        heads: list[list[tuple[int, int]]] = [[] for _ in tails]
        for prompt, (row, start, line) in enumerate(zip(rows, starts, lines, strict=True)):
            self._first.append(len(tails[line]))
            tails[line] += [(prompt, position) for position in range(start, len(row))]
            heads[line] += [(prompt, position) for position in range(start)]
        # Padding repeats the line's first token: it sees what that sees, and no token sees it.
        self._prompt, self._position, real = _table(tails, [tail[0] for tail in tails], device)
        self._head_prompt, self._head_position, head_real = _table(heads, [(0, 0)] * len(heads), device)
        self._real = torch.cat([head_real, real], dim=1)

    @property
    def tokens(self) -> int:
        """How many tokens all lines have together, filling included."""
        return self._prompt.numel()

    def at(self, prompts: Sequence[int], positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        device = self._prompt.device
        tokens = [self._first[p] + at for p, at in zip(prompts, positions, strict=True)]
        return torch.tensor([self._line[p] for p in prompts], device=device), torch.tensor(tokens, device=device)

    def take(self, values: Shaped[Tensor, "prompt position ..."]) -> Shaped[Tensor, "line token ..."]:
        """Lay out what the pass had at (prompt, position)."""
        return values[self._prompt, self._position]

    def before(self, values: Float[Tensor, "prompt head position d"]) -> Float[Tensor, "line head token d"]:
        """Lay out the keys or values of what stands before the prompts' starts."""
        return values.transpose(1, 2)[self._head_prompt, self._head_position].transpose(1, 2).contiguous()

    def mask(self, mask: Tensor) -> Tensor:
        """Return who sees whom in the lines, by who saw whom in the pass."""
        prompt = torch.cat([self._head_prompt, self._prompt], dim=1)
        position = torch.cat([self._head_position, self._position], dim=1)
        own = (prompt[:, None, :] == self._prompt[:, :, None]) & self._real[:, None, :]
        seen = mask.expand(-1, 1, -1, -1)[self._prompt[:, :, None], 0, self._position[:, :, None], position[:, None, :]]
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return torch.where(own, seen, hidden)[:, None]

    def keep(self, prompts: Sequence[int]) -> Int[Tensor, " line"]:
        lines = sorted({self._line[p] for p in prompts})
        self._first = [self._first[p] for p in prompts]
        self._line = [lines.index(self._line[p]) for p in prompts]
        return torch.tensor(lines, device=self._prompt.device)


def _table(
    lines: Sequence[Sequence[tuple[int, int]]], fill: Sequence[tuple[int, int]], device: torch.device
) -> tuple[Int[Tensor, "line token"], Int[Tensor, "line token"], Tensor]:
    """Return prompts and positions of lines filled up to one width, and which are not filling."""
    width = max(map(len, lines))
    table = torch.tensor([[*line, *[f] * (width - len(line))] for line, f in zip(lines, fill, strict=True)])
    table = table.reshape(len(lines), width, 2).to(device)
    real = torch.tensor([[i < len(line) for i in range(width)] for line in lines], dtype=torch.bool, device=device)
    return table[:, :, 0].long(), table[:, :, 1].long(), real.reshape(len(lines), width)


class _KeptKeys:
    """Stands for the models' cache: hands each block the constant keys and values before its own, and keeps nothing."""

    def __init__(self, layers: dict[int, tuple[Tensor, Tensor]]) -> None:
        self._layers = layers

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        before, values_before = self._layers[layer]
        return torch.cat([before, keys], dim=2), torch.cat([values_before, values], dim=2)

    def of(self, layer: int, lines: Tensor) -> "_KeptKeys":
        keys, values = self._layers[layer]
        return _KeptKeys({layer: (keys[lines], values[lines])})

    def keep(self, lines: Tensor) -> None:
        self._layers = {layer: (keys[lines], values[lines]) for layer, (keys, values) in self._layers.items()}


def _mapped(calls: Any, change: Callable[[Tensor], Tensor], cache: _KeptKeys) -> Any:
    """Return nested arguments with every tensor changed, once where blocks share it, and one cache for any other."""
    done: dict[int, Tensor] = {}

    def mapped(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(mapped(v) for v in value)
        if isinstance(value, dict):
            return {k: mapped(v) for k, v in value.items()}
        if isinstance(value, Cache | _KeptKeys):
            return cache
        if not isinstance(value, Tensor):
            return value
        if id(value) not in done:
            done[id(value)] = change(value)
        return done[id(value)]

    return mapped(calls)


@contextmanager
def _only(mlp: nn.Module, places: tuple[Tensor, Tensor]) -> Iterator[None]:
    """Run a feed-forward network at some places alone; elsewhere it puts out zero."""
    shape: list[torch.Size] = []

    def gather(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shape.append(args[0].shape)
        return (args[0][places][None],)

    def scatter(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output.new_zeros(shape.pop()).index_put(places, output[0])

    handles = [mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
