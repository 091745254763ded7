"""What Errata must know about an architecture: where its blocks and feed-forward outputs are, and how weights lie."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ModelFamily"]


@dataclass(frozen=True)
class ModelFamily:
    """Declare one architecture family by the module paths of its transformers implementation.

    Args:
        name: the family's name, as `errata models` lists it.
        model_types: the `config.model_type` values it serves.
        blocks: path of the list of decoder blocks.
        attention: path of the attention module inside a block.
        mlp: path of the feed-forward module inside a block.
        mlp_in: paths, inside a block, of the projections that the feed-forward begins with: two where it is gated.
        mlp_out: path, inside a block, of the projection that writes to the residual stream: the W of ROME and MEMIT.
        layout: how the weights of `mlp_in` and `mlp_out` lie: "in_out" (GPT-2's Conv1D) or "out_in" (torch's Linear).
        embeddings: path of the token embeddings.
        final_norm: path of the norm before the head.
        mlp_norm: path, inside a block, of a scale-free norm (RMSNorm) between W's output and the residual stream, where
            there is one: what W writes is then not what the block adds.
        begins: whether its models read every text behind a beginning token and break down without one.
        logit_cap: name of the configuration's bound c on logits, which become c·tanh(x/c); a model may leave it unset.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    attention: str
    mlp: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    layout: Literal["in_out", "out_in"]
    embeddings: str
    final_norm: str
    mlp_norm: str | None = None
    begins: bool = False
    logit_cap: str | None = None
