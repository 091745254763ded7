"""A handle on a plain Hugging Face model: tokens, named places, and weights in one orientation."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from errata.errors import ConfigError, EditDataError, ModelError
from errata.joining import Join, joint
from errata.models.chat import ChatForm
from errata.models.families import family_of
from errata.models.plain import plain_model
from errata.models.tokens import around, log_remark, remarks, without_embedding

__all__ = ["EditableModel", "PromptForm", "Tokens"]

PromptForm = Literal["raw", "chat"]
"""How prompts are read: as they are, or as a user's turn in the model's chat template."""


class Tokens:
    """Right-padded token ids with their mask and lengths."""

    def __init__(self, rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> None:
        width = max(len(r) for r in rows)
        self.lengths = [len(r) for r in rows]
        self.input_ids: Int[Tensor, "row pos"] = torch.tensor(
            [[*r, *[pad_id] * (width - len(r))] for r in rows], device=device
        )
        self.attention_mask: Int[Tensor, "row pos"] = torch.tensor(
            [[1] * len(r) + [0] * (width - len(r)) for r in rows], device=device
        )


class EditableModel:
    """Give editors and probes what they need of a model, and leave the model itself a plain `PreTrainedModel`.

    Weights are shown as W (d_out, d_in) with v = W k, whatever the layout in which they are stored.

    Args:
        model: any causal language model of a declared family; it is put into evaluation mode.
        tokenizer: its tokenizer.
        name: what to call it in records.
        settings: recommended settings per method, where the model's directory carries `editing.json`.
        tell: receives remarks on the tokenizer, one line each; by default they are logged as warnings of "errata".
        origin: the directory whose files the weights were loaded from; None where they come from nowhere else.

    Raises:
        UnsupportedModelError: when no family is declared for the architecture.
        ModelError: when the family's modules are not where they are declared, or have other shapes; when the model is
            quantised, wrapped or carries an adapter.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "",
        settings: dict[str, dict[str, object]] | None = None,
        tell: Callable[[str], None] = log_remark,
        origin: Path | None = None,
    ) -> None:
        self.name = name or str(getattr(getattr(model, "config", None), "_name_or_path", "")) or "model"
        self.model: PreTrainedModel = plain_model(model, self.name).train(False).requires_grad_(False)
        self.tokenizer = tokenizer
        self.family = family_of(str(self.model.config.model_type))
        self.settings = settings or {}
        self.origin = origin
        self.preface: Callable[[str], str] | None = None
        """What stands before a text when it is read: set by editing methods that work in the prompt."""
        self.chat: ChatForm | None = None
        """How prompts are written for an instruction-tuned model; None: they are read as they are. See `form`."""
        self.prompt_ends: Sequence[int] | None = None
        """Where each row's prompt ends in what is read next, see `reading`."""
        self.reads_whole = False
        """Whether what answers looks at a prompt as a whole: no part of it may be read apart or kept in a cache."""
        self.begun: Callable[[Sequence[Sequence[int]]], AbstractContextManager[None]] | None = None
        """Lets a pass over token rows begin above its lowest blocks: set while `LowerStates` are lent."""
        self._verify()
        self._rows = int(self.parameter(self.family.embeddings).shape[0])
        self.without_embedding = without_embedding(tokenizer, self._rows)
        """The tokens that no text may hold, as the model has no embedding for them."""
        found = around(tokenizer)
        self._behind = found[1]
        for remark in remarks(tokenizer, self.name, self.without_embedding, found, self.family.begins):
            tell(remark)
        self.pad_id = int(next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if isinstance(i, int)), 0))

    def _verify(self) -> None:
        """Check in milliseconds that the declaration fits the model, so that nothing fails at edit 900."""
        try:
            self.n_layers = len(self.module(self.family.blocks))  # type: ignore[arg-type]
            for path in (self.family.embeddings, self.family.final_norm):
                self.module(path)
            for part in (
                self.family.attention,
                self.family.mlp,
                *self.family.mlp_in,
                self.family.mlp_out,
                self.family.mlp_norm,
            ):
                if part is not None:
                    self.block(0).get_submodule(part)
        except AttributeError as e:
            raise ModelError(
                f"{self.name}: the family {self.family.name!r} expects a module that this model lacks: {e}."
            ) from e
        rows = self.oriented(self.parameter(self.mlp_out(0))).shape[0]
        if rows != self.hidden_size:
            raise ModelError(
                f"{self.name}: {self.mlp_out(0)} writes {rows} values, but the hidden size is {self.hidden_size}; "
                f"the layout {self.family.layout!r} declared for {self.family.name!r} does not fit this model."
            )

    @property
    def hidden_size(self) -> int:
        """The width d of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """The device at which the model begins: where token ids go."""
        spread = getattr(self.model, "_hf_hook", None)  # accelerate's: its embeddings may lie on no device at rest
        return torch.device(spread.execution_device if spread is not None else self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model's weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def head(self) -> nn.Module:
        """The language-model head; its path differs between transformers releases, so the model is asked."""
        head = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        assert isinstance(head, nn.Module)
        return head

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        """Read the last block's output: final norm, head, and the bound on logits where the model has one."""
        logits: Tensor = self.head(self.module(self.family.final_norm)(hidden))
        cap = getattr(self.model.config, self.family.logit_cap) if self.family.logit_cap else None
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def module(self, path: str) -> nn.Module:
        """Return the module at a path."""
        module: nn.Module = self.model.get_submodule(path)
        return module

    def block_path(self, layer: int) -> str:
        """Return the path of decoder block `layer`, checking the range."""
        if not 0 <= layer < self.n_layers:
            raise ConfigError(f"layer {layer} is out of range: {self.name} has layers 0 to {self.n_layers - 1}.")
        return f"{self.family.blocks}.{layer}"

    def block(self, layer: int) -> nn.Module:
        """Return decoder block `layer`."""
        return self.module(self.block_path(layer))

    def layer_of(self, path: str) -> int:
        """Return the decoder block that a module's path lies in; 0 where it lies in none, which may be below them."""
        inside = path.removeprefix(f"{self.family.blocks}.")
        return 0 if inside == path else int(inside.split(".")[0])

    def mlp_out(self, layer: int) -> str:
        """Return the path of the feed-forward output projection of `layer`: the module that ROME and MEMIT edit."""
        return f"{self.block_path(layer)}.{self.family.mlp_out}"

    def mlp_in(self, layer: int) -> list[str]:
        """Return the paths of the projections that the feed-forward of `layer` begins with."""
        return [f"{self.block_path(layer)}.{part}" for part in self.family.mlp_in]

    def mlp_norm(self, layer: int) -> nn.Module | None:
        """Return the norm between W's output and the residual stream of `layer`; None where W writes to it directly."""
        norm = self.family.mlp_norm
        return None if norm is None else self.module(f"{self.block_path(layer)}.{norm}")

    def parameter_name(self, path: str) -> str:
        """Return the name of the stored weight of the module at `path`; a path that ends with ".bias" is one itself."""
        return path if path.endswith(".bias") else f"{path}.weight"

    def parameter(self, path: str) -> nn.Parameter:
        """Return the stored weight of the module at `path`, or the bias that a path names."""
        parameter: nn.Parameter = self.model.get_parameter(self.parameter_name(path))
        return parameter

    def has_bias(self, path: str) -> bool:
        """Say whether the module at `path` adds a bias to its outputs."""
        return getattr(self.module(path), "bias", None) is not None

    def oriented(self, stored: Tensor) -> Float[Tensor, "out in"]:
        """Return a view of a stored weight as W (d_out, d_in); of a bias as (d_out, 1), the weight of a constant 1."""
        if stored.ndim == 1:
            return stored[:, None]
        return stored.T if self.family.layout == "in_out" else stored

    def weight(self, path: str) -> Float[Tensor, "out in"]:
        """Return the weight at `path` as W (d_out, d_in): a view, or a copy where tensor parallelism has divided it.

        Raises:
            ConfigError: when the device map has put it on disk, or on a CPU from which it is fetched for every pass.
        """
        parameter = self.parameter(path)
        if parameter.is_meta and hasattr(self.model, "hf_device_map"):
            raise ConfigError(
                f"{path} is offloaded, so it cannot be edited: in model.device_map, give its block a device of its "
                f"own, or choose other layers."
            )
        return self.oriented(_gathered(parameter.data))

    def stored(self, *, buffers: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter, and every buffer that belongs to the weights, with its name, whole.

        One that is offloaded is fetched for the moment.
        """
        saved = self.model.state_dict().keys() if buffers else ()
        kept = [(name, buffer) for name, buffer in self.model.named_buffers() if name in saved]
        for name, parameter in [*self.model.named_parameters(), *kept]:
            if parameter.is_meta and hasattr(self.model, "hf_device_map"):
                from accelerate.utils import align_module_device  # type: ignore[import-untyped]

                path, _, own = name.rpartition(".")
                with align_module_device(self.module(path)):
                    yield name, getattr(self.module(path), own).detach()
            else:
                yield name, _gathered(parameter.detach())

    @torch.no_grad()
    def write(self, path: str, weight: Float[Tensor, "out in"]) -> None:
        """Store W (d_out, d_in) at `path`, rounded to the model's precision. Only a trajectory calls this."""
        parameter: Any = self.parameter(path).data
        if not hasattr(parameter, "device_mesh"):
            self.weight(path).copy_(weight)
            return
        from torch.distributed.tensor import distribute_tensor

        # Every process has computed the same W and keeps its own part.
        stored = self.oriented(weight).to(parameter.dtype).contiguous()
        parameter.copy_(distribute_tensor(stored, parameter.device_mesh, parameter.placements))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids of whole texts, with the beginning-of-sequence token where the tokenizer adds one.

        An end token that the tokenizer adds is left out: what is read goes on, with an object or an answer. What an
        editing method puts before a text stands there, and the model's chat form around both.
        """
        return self.encode_whole([self._before(text) + text for text in texts])

    def encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids of texts before which nothing else is put."""
        if not texts:
            return []
        if self.chat is not None:
            found = self.chat.encode([self.chat.write(text)[0] for text in texts])
        else:
            found = self.tokenizer(list(texts))
        return [self._readable(self._open(ids), text) for ids, text in zip(found["input_ids"], texts, strict=True)]

    def _open(self, ids: Sequence[int]) -> list[int]:
        """Return a text's ids without what the tokenizer puts behind every text."""
        end = len(ids) - len(self._behind)
        return list(ids[:end] if self.chat is None and list(ids[end:]) == self._behind else ids)

    def _readable(self, ids: list[int], text: str) -> list[int]:
        """Return a text's ids if each has an embedding."""
        if (highest := max(ids, default=0)) >= self._rows:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise EditDataError(
                f"{text[:80]!r} holds the token {token!r}, number {highest}, but {self.name} has embeddings for the "
                f"first {self._rows} alone. Write it otherwise, or use a tokenizer and a model that belong together."
            )
        return ids

    def _before(self, text: str) -> str:
        return self.preface(text) if self.preface else ""

    def encode_target(self, target: str, after: str = "", join: Join = "auto") -> list[int]:
        """Return the ids of an object as it follows a prompt, without special tokens.

        A space stands before it, but where prompt and object are in scripts that are written without (`joint`).

        Encoded behind a word, or behind a line break where no space stands before it, and without either: a
        SentencePiece tokenizer puts a piece of its own at the beginning of every text, which no object inside a
        sentence has. In the chat form the object begins the answer, and has a space before it where the template puts
        one.

        Args:
            target: the object.
            after: the prompt that it follows; an object alone is taken to follow a text that has spaces.
            join: the fact's own word on what stands between the two.
        """
        if self.chat is not None:
            ids = self.chat.answer_ids(target)
        else:
            between = joint(after, target, join)
            first = "a" if between else "\n"
            anchor, both = (
                list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
                for text in (first, f"{first}{between}{target.strip()}")
            )
            ids = both[len(anchor) :] if both[: len(anchor)] == anchor else []
        if not ids:
            raise EditDataError(f"the target {target!r} has no tokens of its own in {self.name}'s vocabulary.")
        return self._readable(ids, target)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Read texts inside the block as they are: without a preface, and not in the chat form."""
        before, self.preface = self.preface, None
        try:
            with self.form("raw"):
                yield
        finally:
            self.preface = before

    @contextmanager
    def form(self, form: PromptForm) -> Iterator[None]:
        """Read prompts inside the block raw, or as a user's turn in the model's chat template.

        Raises:
            ConfigError: when the model has no chat template.
        """
        before, self.chat = self.chat, ChatForm(self.tokenizer, self.name) if form == "chat" else None
        try:
            yield
        finally:
            self.chat = before

    @contextmanager
    def reading(self, prompt_ends: Sequence[int]) -> Iterator[None]:
        """Announce where prompts end in the token rows read inside the block: behind that stand objects or padding.

        Methods beside the weights look a prompt up at its last token; a plain forward pass does not tell which it is.

        Args:
            prompt_ends: for each row, the index of its prompt's last token; -1 where the row holds none.
        """
        before, self.prompt_ends = self.prompt_ends, list(prompt_ends)
        try:
            yield
        finally:
            self.prompt_ends = before

    @property
    def positions(self) -> int:
        """How many tokens a text may have."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return int(limit) if isinstance(limit, int) else sys.maxsize

    def check_length(self, ids: Sequence[int], what: str = "a text") -> None:
        """Refuse a text that has more tokens than the model has positions."""
        if len(ids) > self.positions:
            raise EditDataError(
                f"{what} has {len(ids)} tokens, but {self.name} has {self.positions} positions: "
                f"{self.tokenizer.decode(list(ids[:20]))!r}... Shorten it."
            )

    def pad(self, rows: Sequence[Sequence[int]]) -> Tokens:
        """Right-pad token rows."""
        return Tokens(rows, self.pad_id, self.device)

    def subject_span(self, before: str, subject: str, after: str) -> tuple[list[int], list[int]]:
        """Encode before + subject + after and find the subject's tokens.

        Returns:
            The token ids and the indices of the tokens that cover a character of the subject.
        """
        before = self._before(before + subject + after) + before
        text, start = before + subject + after, len(before)
        if self.chat is not None:
            written, begins = self.chat.write(text)
            encoded = self.chat.encode(written, return_offsets_mapping=True)
            start += begins
        else:
            encoded = self.tokenizer(text, return_offsets_mapping=True)
        end = start + len(subject.rstrip())
        covering = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
        if not covering:
            raise EditDataError(f"the subject {subject!r} has no token of its own in {before + subject + after!r}.")
        return self._readable(self._open(encoded["input_ids"]), text), covering

    def subject_last(self, before: str, subject: str, after: str) -> tuple[list[int], int]:
        """Encode before + subject + after and find the subject's last token."""
        ids, covering = self.subject_span(before, subject, after)
        return ids, covering[-1]


def _gathered(stored: Any) -> Tensor:
    """Return a tensor that tensor parallelism has divided as one on every process; any other as it is."""
    whole: Tensor = stored.full_tensor() if hasattr(stored, "device_mesh") else stored
    return whole
