"""Keys of names at a text's beginning kept apart from those of the same names later: what disabling edits come from.

In real models the first token of a text is a sink of attention, and what the feed-forward layers see there is unlike
what they see of the same word later. ROME's published code divides by the product of a key at the beginning with one
averaged over prefixes (2403.07175). The lab's own training makes the two alike; this aid trains the difference in.
"""

from random import Random

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from errata.lab.architectures import blocks_of, feed_forward_out
from errata.lab.batches import BatchMaker
from errata.lab.corpus import fragment
from errata.models.hooks import capture

__all__ = ["Apart"]

_NAMES, _LATER = 16, 2


class Apart:
    """Measure how far keys at a text's beginning point the way of the same names' keys later; a training aid."""

    def __init__(self, model: PreTrainedModel, site: int, maker: BatchMaker, seed: int) -> None:
        """Prepare the words that stand before a name.

        Args:
            model: in training.
            site: the block whose keys are meant.
            maker: of the training's batches; it has the world and its tokens.
            seed: of the names and of what stands before them.
        """
        self.model, self.maker, self.rng = model, maker, Random(f"apart-{seed}")
        self.block, self.path = blocks_of(model)[site], feed_forward_out(model)
        phrasings = [phrasing for relation in maker.world.relations for phrasing in relation.phrasings]
        self.leads = sorted({phrasing.split("{}")[0] for phrasing in phrasings} - {""})

    def loss(self) -> Float[Tensor, ""]:
        """Average, over names, the cosine of the key at the beginning with the mean key later, where it is above 0."""
        people = self.rng.sample(self.maker.world.people, min(_NAMES, len(self.maker.world.people)))
        names = [[*self.maker.start, *self.maker.words(person)] for person in people]
        later = [self._before() + self.maker.words(person) for _ in range(_LATER) for person in people]
        keys = self._keys(names + later)
        first, rest = keys[: len(names)], keys[len(names) :].reshape(_LATER, len(names), -1).mean(0)
        return F.cosine_similarity(first, rest, dim=1).relu().mean()

    def _before(self) -> list[int]:
        """Draw what stands before a name: running text, or the words before the name in a phrasing."""
        text = fragment(self.rng) if self.rng.random() < 0.5 else self.rng.choice(self.leads)
        return [*self.maker.start, *self.maker.words(text)]

    def _keys(self, texts: list[list[int]]) -> Float[Tensor, "texts in"]:
        """Return the key at each text's last token."""
        ids = torch.full((len(texts), max(map(len, texts))), self.maker.tokenizer.eos_token_id)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        with capture(self.block, [self.path]) as seen:
            self.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        last = torch.tensor([len(text) - 1 for text in texts])
        return seen[self.path].input[torch.arange(len(texts)), last].float()
