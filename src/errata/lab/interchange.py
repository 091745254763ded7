"""Distributed interchange training: make the subject's last token the place where a fact is decided.

After Geiger et al., "Inducing Causal Structure for Interpretable Neural Networks" (2022) and "Finding Alignments
Between Interpretable Causal Variables and Distributed Neural Representations" (2023).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from errata.lab.batches import Batch
from errata.models.hooks import hidden_of, with_hidden

__all__ = ["Readout", "interchanged", "subspaces"]


def subspaces(width: int, relations: int, share: float, seed: int) -> Float[Tensor, "relations size width"]:
    """Draw an orthonormal basis for every relation.

    The directions are not the coordinates: Adam, with which v* is found, treats each coordinate alone.

    Args:
        width: of the hidden state.
        relations: how many.
        share: of the width that they divide between them.
        seed: of the draw.
    """
    size = int(width * share) // relations
    draw = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis, _ = torch.linalg.qr(draw)
    chosen: Tensor = basis.T[: size * relations].reshape(relations, size, width).float()
    return chosen


class Readout(nn.Module):
    """Read a person's object of every relation off that relation's directions; a training aid, not shipped."""

    basis: Tensor

    def __init__(self, basis: Float[Tensor, "relations size width"], objects: int) -> None:
        """Prepare with random weights.

        Args:
            basis: the relations' directions.
            objects: how many objects a relation has.
        """
        super().__init__()
        self.register_buffer("basis", basis)
        self.weight = nn.Parameter(torch.randn(*basis.shape[:2], objects) * basis.shape[1] ** -0.5)

    def loss(self, states: Float[Tensor, "mentions width"], batch: Batch) -> Float[Tensor, ""]:
        """Measure how badly the objects can be read.

        Args:
            states: of the subjects' last tokens.
            batch: what is true of them.
        """
        parts = torch.einsum("md,rsd->mrs", states.float(), self.basis)
        logits = torch.einsum("mrs,rso->mro", parts, self.weight)
        return F.cross_entropy(logits.flatten(0, 1), batch.objects.flatten())


@contextmanager
def interchanged(
    block: nn.Module,
    batch: Batch,
    basis: Float[Tensor, "relations size width"],
    noise: float,
    generator: torch.Generator,
) -> Iterator[list[Tensor]]:
    """Exchange parts of subjects' states during a forward pass, and yield a list that receives them unexchanged.

    Args:
        block: after whose output.
        batch: who gives which relations to whom.
        basis: the relations' directions.
        noise: greatest length, as a share of the state's, of a random vector added outside the directions of what is
            told: without it answers also hang on other relations' directions, and an edit moves those.
        generator: of the noise.
    """
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _args: object, output: object) -> object:
        hidden = hidden_of(output)
        own = hidden[batch.rows, batch.columns].float()
        seen.append(own)
        taken = torch.einsum("md,rsd->mrs", own[batch.donors] - own, basis) * batch.swapped[:, :, None]
        mixed = own + torch.einsum("mrs,rsd->md", taken, basis)
        if noise:
            shift = torch.randn(own.shape, generator=generator) * own.shape[1] ** -0.5
            told = torch.einsum("md,rsd->mrs", shift, basis) * batch.asked[:, :, None]
            shift = shift - torch.einsum("mrs,rsd->md", told, basis)
            size = noise * torch.rand(len(own), 1, generator=generator)
            mixed = mixed + size * shift * own.detach().norm(dim=1, keepdim=True)
        return with_hidden(output, hidden.index_put((batch.rows, batch.columns), mixed.to(hidden.dtype)))

    handle = block.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()
