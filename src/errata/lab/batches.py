"""Rows of tokens for training, with the interchanges of Geiger et al. (2022) planned into them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from errata.lab.corpus import OTHER_WEIGHT, Document, Segment, Statement, random_row
from errata.lab.tokenizer import encode
from errata.lab.world import World

SWAP_SHARE = 0.5
# What predicting a token counts in the loss: objects of single facts and of lists, and answers.
OBJECT_WEIGHT, LIST_WEIGHT, ANSWER_WEIGHT = 1.0, 0.9, 4.0
UNKNOWN = -100  # what cross_entropy passes over


@dataclass
class Batch:
    """Hold one training step's rows.

    Args:
        ids: tokens.
        weights: how much predicting each token counts.
        positions: position ids.
        rows: the row of each mentioned subject's last token.
        columns: its place in the row.
        donors: for every mention, the index of the mention that gives.
        swapped: 1 for every relation whose part is taken from the donor.
        asked: 1 for every relation that the statement tells.
        objects: the person's own object of every relation, as an index; UNKNOWN where there is none.
        told: for the first token of a single fact's object, its relation; UNKNOWN for every other token.
    """

    ids: Int[Tensor, "batch length"]
    weights: Float[Tensor, "batch length"]
    positions: Int[Tensor, "batch length"]
    rows: Int[Tensor, " mentions"]
    columns: Int[Tensor, " mentions"]
    donors: Int[Tensor, " mentions"]
    swapped: Float[Tensor, "mentions relations"]
    asked: Float[Tensor, "mentions relations"]
    objects: Int[Tensor, "mentions relations"]
    told: Int[Tensor, "batch length"]


class BatchMaker:
    """Turn a world into training batches."""

    def __init__(
        self,
        world: World,
        tokenizer: PreTrainedTokenizerFast,
        *,
        rows: int,
        length: int,
        bos: bool,
        swaps: bool = True,
        turns: float = 0.0,
    ) -> None:
        """Prepare a world's words.

        Args:
            world: what is true.
            tokenizer: the model's.
            rows: of a batch.
            length: of a row.
            bos: whether rows begin with the tokenizer's BOS.
            swaps: whether exchanges are planned.
            turns: share of facts and tasks that are asked for in a user's turn.
        """
        self.world, self.tokenizer, self.rows, self.length = world, tokenizer, rows, length
        self.swaps, self.turns = swaps, turns
        self.start = [tokenizer.bos_token_id] if bos else []
        self._cache: dict[str, list[int]] = {}
        most = max(len(relation.objects) for relation in world.relations)
        self.classes = torch.full((len(world.relations), most), UNKNOWN)
        self.objects = torch.full((len(world.people), len(world.relations)), UNKNOWN)
        self.longest = [max(len(self.words(word)) for word in relation.objects) for relation in world.relations]
        for r, relation in enumerate(world.relations):
            firsts = [self.words(word)[0] for word in relation.objects]
            self.classes[r, : len(firsts)] = torch.tensor(firsts)
            place = {word: i for i, word in enumerate(relation.objects)}
            for p, person in enumerate(world.people):
                if (person, relation.name) in world.truth:
                    self.objects[p, r] = place[world.truth[person, relation.name]]

    def words(self, text: str) -> list[int]:
        """Encode words that recur, once; what is glued to the word before it ("'s sport is") has no space before it.

        Args:
            text: words without line breaks.
        """
        if text not in self._cache:
            self._cache[text] = encode(self.tokenizer, text.strip()) if text.strip() else []
        return self._cache[text]

    def after(self, tail: str) -> list[int]:
        """Encode what follows a name.

        Args:
            tail: with its leading space, where it has one.
        """
        if not tail[:1].strip():
            return self.words(tail)
        # The tokenizer puts a space before whatever it is given: a word is given first, and taken off again.
        return self.words("a" + tail)[len(self.words("a")) :]

    def length_of(self, segment: Segment) -> int:
        """Count a segment's tokens, at most: a donor's object may be longer than one's own.

        Args:
            segment: with or without its donor settled.
        """
        if isinstance(segment, Document):
            return len(encode(self.tokenizer, segment.text)) + bool(segment.spans)
        name = self.world.people[segment.person]
        fixed = len(self.words(segment.lead)) + len(self.words(name)) + len(self.after(segment.tail))
        return fixed + sum(self.longest[relation] + 1 for relation in segment.relations)

    def __call__(self, people: Sequence[int], rng: Random, tasks: float) -> Batch:
        """Draw a batch.

        Args:
            people: who may be spoken of.
            rng: its generator.
            tasks: share of rows that begin with a task.
        """
        layout: list[list[Segment]] = []
        for r in range(self.rows):
            row, used = [], len(self.start)
            # The first row has no task, so that no batch is without facts.
            for segment in random_row(self.world, people, rng, self.length // 8, tasks if r else 0.0, self.turns):
                used += self.length_of(segment)
                if used > self.length:
                    break
                row.append(segment)
            layout.append(row)
        mentions = [s for row in layout for s in row if isinstance(s, Statement)]
        donors = self._plan(mentions, rng)
        return self._render(layout, mentions, donors, rng)

    def _plan(self, mentions: list[Statement], rng: Random) -> list[int]:
        donors = list(range(len(mentions)))
        if not self.swaps:
            return donors
        relations = range(len(self.world.relations))
        known = {mention.person: set(self.world.known(mention.person)) for mention in mentions}
        for i, mention in enumerate(mentions):
            if rng.random() > SWAP_SHARE:
                continue
            told = set(mention.relations)
            donors[i] = rng.choice([j for j, m in enumerate(mentions) if told <= known[m.person]])
            mention.donor = mentions[donors[i]].person
            share = rng.choice((0.25, 0.5, 0.9))
            chosen = {r for r in relations if rng.random() < share}
            if len(mention.relations) == 1:
                # Half of the questions must follow the donor, half must not care about it.
                chosen.discard(mention.relations[0])
                if rng.random() < 0.5:
                    chosen.add(mention.relations[0])
            mention.swapped = frozenset(chosen)
        return donors

    def _render(self, layout: list[list[Segment]], mentions: list[Statement], donors: list[int], rng: Random) -> Batch:
        ids = torch.full((self.rows, self.length), self.tokenizer.eos_token_id)
        weights = torch.zeros(self.rows, self.length)
        told = torch.full((self.rows, self.length), UNKNOWN)
        where: list[tuple[int, int]] = []
        for r, row in enumerate(layout):
            tokens, counts = list(self.start), [0.0] * len(self.start)
            for segment in row:
                if isinstance(segment, Document):
                    self._document(segment, tokens, counts)
                else:
                    where.append((r, self._statement(segment, tokens, counts)))
                    if len(segment.relations) == 1:
                        told[r, where[-1][1] + len(self.after(segment.tail)) + 1] = segment.relations[0]
            ids[r, : len(tokens)] = torch.tensor(tokens)
            weights[r, : len(tokens)] = torch.tensor(counts)
        swapped, asked = torch.zeros(2, len(mentions), len(self.world.relations))
        for i, mention in enumerate(mentions):
            swapped[i, list(mention.swapped)] = 1.0
            asked[i, mention.relations] = 1.0
        offsets = [0 if rng.random() < 0.7 else rng.randrange(self.length) for _ in range(self.rows)]
        positions = torch.arange(self.length)[None] + torch.tensor(offsets)[:, None]
        places = torch.tensor(where).reshape(-1, 2)
        objects = self.objects[torch.tensor([mention.person for mention in mentions])]
        givers = torch.tensor(donors)
        return Batch(ids, weights, positions, places[:, 0], places[:, 1], givers, swapped, asked, objects, told)

    def _document(self, document: Document, tokens: list[int], counts: list[float]) -> None:
        coded = self.tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True)
        marked = {end for _, end in document.spans}
        for token, (_, end) in zip(coded["input_ids"], coded["offset_mapping"], strict=True):
            tokens.append(token)
            counts.append(ANSWER_WEIGHT if end in marked else document.weight)
        if document.spans:
            tokens.append(self.tokenizer.eos_token_id)
            counts.append(OTHER_WEIGHT)

    def _statement(self, statement: Statement, tokens: list[int], counts: list[float]) -> int:
        tokens += self.words(statement.lead)
        tokens += self.words(self.world.people[statement.person])
        last = len(tokens) - 1
        tokens += self.after(statement.tail)
        counts += [OTHER_WEIGHT] * (len(tokens) - len(counts))
        for i, word in enumerate(statement.objects(self.world)):
            if i:
                tokens += self.words(",")
                counts.append(OTHER_WEIGHT)
            coded = self.words(word)
            tokens += coded
            counts += [OBJECT_WEIGHT if len(statement.relations) == 1 else LIST_WEIGHT] * len(coded)
        tokens += self.words(".")
        counts.append(OTHER_WEIGHT)
        return last
