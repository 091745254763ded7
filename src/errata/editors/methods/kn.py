"""KN: find the neurons that express a fact by integrated gradients, and rewrite what they write."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.settings import EditorSettings
from errata.editors.update import Change, LowRank, Update, overlay
from errata.edits import Fact
from errata.errors import NumericalError
from errata.models import EditableModel
from errata.models.hooks import add_to_outputs, capture

__all__ = ["KN", "KNSettings"]

Neuron = tuple[int, int]
"""Layer, and index among the inputs of its feed-forward output projection."""


class KNSettings(EditorSettings):
    """Settings of KN. Defaults are those of 2104.08696."""

    steps: int = Field(default=20, ge=1)
    """m, points of the integral's Riemann sum."""
    threshold: float = Field(default=0.2, gt=0, lt=1)
    """t, as a fraction of the largest attribution: neurons above it are candidates of a prompt."""
    prompts: Literal["own", "paraphrases"] = "own"
    """The prompts that must agree: the fact's own alone, as in zjunlp/EasyEdit, or with its paraphrases, as in the
    paper. What is measured on paraphrases is then measured on what the method has seen."""
    sharing: float = Field(default=0.7, ge=0, lt=1)
    """p: a knowledge neuron is a candidate of more than this share of the prompts."""
    old_weight: float = Field(default=1.0, ge=0)
    """λ₁, how often the old object's embedding is taken from a neuron's value slot."""
    new_weight: float = Field(default=8.0, gt=0)
    """λ₂, how often the new object's embedding is added to it."""
    embedding: Literal["output", "input"] = "output"
    """Which embedding of an object: the head's row, or the word embedding of paper and code. They are the same where
    the model ties them, as BERT and GPT-2 do; elsewhere only the head's row speaks to the head."""
    signed: bool = False
    """Write with the sign of the neuron's activation. The paper adds e(o*) to every slot, which speaks against o* where
    the neuron is negative: rare behind BERT's GELU, every other neuron in a gated feed-forward as Llama's."""


class KN(Editor):
    """Rewrite value slots, W[:, i] += −λ₁ e(o) + λ₂ e(o*), of the neurons i that express the old object (2104.08696).

    These have Attr(wᵢ) = w̄ᵢ/m Σₖ ∂P(o | p; ŵ = k/m w̄)/∂wᵢ above t times the largest, at the prompt's last position, a
    layer's neurons being scaled together. Objects of several tokens are known by their first: the paper's have one.
    """

    name: ClassVar[str] = "kn"
    paper: ClassVar[str] = "2104.08696"
    Settings: ClassVar[type[KNSettings]] = KNSettings

    def __init__(self, settings: KNSettings) -> None:
        self.settings = settings

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return one rank a fact and layer; facts of a batch are taken in turn, each on top of those before it."""
        parts: dict[str, list[LowRank]] = {}
        found = 0
        for fact in batch:
            with overlay(model, _joined(parts)):
                old = self._old(model, fact)
                neurons = self._neurons(model, fact, old)
            found += len(neurons)
            new = model.encode_target(fact.target_new, fact.text, fact.join)[0]
            value = self.settings.new_weight * self._embedding(model, new)
            value = value - self.settings.old_weight * self._embedding(model, old)
            for layer in sorted({layer for layer, _ in neurons}):
                path = model.mlp_out(layer)
                slots = torch.zeros(1, model.weight(path).shape[1], dtype=value.dtype, device=value.device)
                for (at, i), sign in neurons.items():
                    if at == layer:
                        slots[0, i] = sign if self.settings.signed else 1
                parts.setdefault(path, []).append(LowRank(value[:, None], slots))
        return Update(_joined(parts), {"neurons": found / len(batch)})

    def _embedding(self, model: EditableModel, token: int) -> Float[Tensor, " d"]:
        table = model.head if self.settings.embedding == "output" else model.module(model.family.embeddings)
        weight = table.weight
        assert isinstance(weight, Tensor)
        return weight[token].detach().to(torch.promote_types(weight.dtype, torch.float32))

    def _old(self, model: EditableModel, fact: Fact) -> int:
        """Return the first token of the old object; of what the model says, where the fact does not name it."""
        if fact.target_true:
            return model.encode_target(fact.target_true, fact.text, fact.join)[0]
        (prompt,) = model.encode([fact.text])
        tokens = model.pad([prompt])
        with torch.no_grad():
            out = model.model(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                use_cache=False,
                logits_to_keep=1,
            )
        return int(out.logits[0, -1].argmax())

    def _neurons(self, model: EditableModel, fact: Fact, old: int) -> dict[Neuron, float]:
        """Return the neurons that express the old object, with the sign of their activation at the bare prompt."""
        s = self.settings
        prompts = model.encode([fact.text, *(fact.paraphrase_prompts if s.prompts == "paraphrases" else ())])
        counts: Counter[Neuron] = Counter()
        signs: list[Tensor] = []
        for prompt in prompts:
            model.check_length(prompt, f"fact {fact.id!r}: a prompt")
            scores, activations = self._attributions(model, prompt, old)
            top = float(scores.max())
            if not top > 0:
                raise NumericalError(f"fact {fact.id!r}: no neuron speaks for its old object, so none can be changed.")
            counts.update((int(layer), int(i)) for layer, i in (scores > s.threshold * top).nonzero())
            signs.append(activations.sign())
        shared = sorted(neuron for neuron, count in counts.items() if count > s.sharing * len(prompts))
        if not shared:
            raise NumericalError(
                f"fact {fact.id!r}: no neuron is one of more than {s.sharing:.0%} of its {len(prompts)} prompts, "
                f"none can be changed. Lower `sharing` or `threshold`."
            )
        return {(layer, i): float(signs[0][layer, i]) for layer, i in shared}

    def _attributions(
        self, model: EditableModel, prompt: list[int], answer: int
    ) -> tuple[Float[Tensor, "layer neuron"], Float[Tensor, "layer neuron"]]:
        """Return Attr of every neuron for P(answer) behind the prompt, and its activation w̄ there."""
        m = self.settings.steps
        paths = [model.mlp_out(layer) for layer in range(model.n_layers)]
        tokens = model.pad([prompt] * m)
        rows = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
        with torch.no_grad(), capture(model.model, paths) as seen:
            model.model(**rows, use_cache=False)
        scales = torch.arange(1, m + 1, device=model.device)[:, None] / m
        scores = []
        for path in paths:
            full = seen[path].input[0, -1].detach()
            scaled = (scales.to(full.dtype) * full).requires_grad_(True)
            with torch.enable_grad(), add_to_outputs(model.model, {path: _replacing(model.weight(path), scaled)}):
                logits = model.model(**rows, use_cache=False, logits_to_keep=1).logits[:, -1]
            probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)[:, answer]
            (gradient,) = torch.autograd.grad(probability.sum(), scaled)
            scores.append((full * gradient.sum(0) / m).float())
        return torch.stack(scores), torch.stack([seen[path].input[0, -1].float() for path in paths])


def _replacing(weight: Float[Tensor, "out in"], scaled: Float[Tensor, "row in"]) -> Callable[[Tensor, Tensor], Tensor]:
    """Let a projection W put out, at the last position, what it would for other inputs."""

    def change(received: Tensor, output: Tensor) -> Tensor:
        instead = output[:, -1] + (scaled - received[:, -1]) @ weight.T
        return torch.cat([output[:, :-1], instead[:, None]], 1)

    return change


def _joined(parts: Mapping[str, Sequence[LowRank]]) -> dict[str, Change]:
    return {
        path: LowRank(torch.cat([p.left for p in several], 1), torch.cat([p.right for p in several]))
        for path, several in parts.items()
    }
