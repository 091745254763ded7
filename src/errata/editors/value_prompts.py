"""The prompts under which values are optimised, and how those of many facts are laid out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from errata.editors.keys import FactToken, place
from errata.edits import Fact
from errata.edits.fields import with_place_for
from errata.models import EditableModel
from errata.models.replay import UpperLayers

__all__ = ["FactPrompts", "Portion", "portions"]

_CONTEXTS = 3  # the bare prompt among them: so many stay, however many prompts teach
_KEYS_A_TOKEN = 1000  # a token costs twice as much when attention spans about this many keys (12 blocks of width 768)


@dataclass(frozen=True)
class FactPrompts:
    """One fact's prompts behind its contexts, then its teaching prompts, the essence prompt last.

    Args:
        rows: token ids, the new object's included.
        starts: the position of each that is the first not to be constant.
        changed: where δ acts, counted from there.
        lengths: how many tokens of each the others may see; those after it are padding.
        target: the new object's token ids.
        reads: (prompt, position counted from its start) of every prediction of an object's token, context by context,
            then that of the essence term.
    """

    rows: list[list[int]]
    starts: list[int]
    changed: list[int]
    lengths: list[int]
    target: list[int]
    reads: list[tuple[int, int]]

    @classmethod
    def of(
        cls, model: EditableModel, fact: Fact, templates: Sequence[str], essence_end: bool, token: FactToken
    ) -> "FactPrompts":
        """Encode a fact's prompts; a teaching prompt takes the place of a context, so that it costs nothing.

        Args:
            model: whose tokens.
            fact: what to teach.
            templates: context templates; the first must be the bare "{}".
            essence_end: read the essence term at its prompt's end, not at the subject.
            token: the token at which δ acts.
        """
        target = model.encode_target(fact.target_new, fact.text, fact.join)
        told = [place(model, reworded, token=token) for reworded in _reworded(fact)]
        contexts = templates[: max(_CONTEXTS, len(templates) - len(told))]
        placed = [place(model, fact, t, token=token) for t in contexts] + told
        essence, subject_at = place(model, fact, prompt="{} is a", token=token)
        rows = [ids + target[:-1] for ids, _ in placed] + [essence]
        for ids in rows:
            model.check_length(ids, f"fact {fact.id!r}: its prompt with the new object")
        starts = [at for _, at in placed] + [subject_at]
        lengths = [len(ids) for ids in rows]
        changed = [0] * len(rows)
        essence_at = len(essence) - 1 if essence_end else subject_at
        if token == "last_padded":
            end = max(lengths) - 1
            rows = [[*ids, *[model.pad_id] * (end + 1 - len(ids))] for ids in rows]
            changed = [end - at for at in starts]
            essence_at = essence_at if essence_end else end
        else:
            rows[-1] = essence[: essence_at + 1]  # what follows is never read
        reads = [(row, len(ids) - 1 + j - at) for row, (ids, at) in enumerate(placed) for j in range(len(target))]
        return cls(rows, starts, changed, lengths, target, [*reads, (len(placed), essence_at - subject_at)])

    def lines(self) -> list[int]:
        """Return for each prompt the line in which it lies, in the arrangement that costs least.

        Few long lines waste no padding, many short ones no attention to keys of other prompts.
        """
        n = len(self.rows)
        arrangements = [[i // size for i in range(n)] for size in range(1, n + 1)]
        return min(arrangements, key=self._cost)

    def width(self) -> int:
        """Return the tokens of the longest line."""
        return max(self._totals(self.lines()))

    def _totals(self, lines: Sequence[int], heads: bool = False) -> list[int]:
        totals = [0] * (max(lines) + 1)
        for row, start, line in zip(self.rows, self.starts, lines, strict=True):
            totals[line] += len(row) if heads else len(row) - start
        return totals

    def _cost(self, lines: Sequence[int]) -> float:
        tails, wholes = self._totals(lines), self._totals(lines, heads=True)
        return len(tails) * max(tails) * (1 + max(wholes) / _KEYS_A_TOKEN)


def _reworded(fact: Fact) -> Iterator[Fact]:
    """Yield the fact as each of its teaching prompts asks for it; a text without the subject has no place for δ."""
    for text in fact.teaching_prompts:
        if (found := with_place_for(fact.subject, text)) is not None:
            yield replace(fact, prompt=found[0], subject=found[1])


def portions(tasks: Sequence[FactPrompts], tokens: int) -> Iterator[list[int]]:
    """Yield indices of facts to be optimised together: of as many prompts, like width, and not too many tokens."""
    widths = [task.width() for task in tasks]
    portion: list[int] = []
    lines = 0
    for i in sorted(range(len(tasks)), key=lambda i: (len(tasks[i].rows), widths[i])):
        more = max(tasks[i].lines()) + 1
        alike = portion and len(tasks[i].rows) == len(tasks[portion[0]].rows)
        if portion and (not alike or (lines + more) * widths[i] > tokens):
            yield portion
            portion, lines = [], 0
        portion.append(i)
        lines += more
    if portion:
        yield portion


class Portion:
    """The prompts of some facts in the layers above the edited one, and where they are changed and read.

    Args:
        model: the model.
        tasks: the facts' prompts; of every fact as many.
        layer: the block l.
        watch: module paths whose outputs are kept.
        rerun: run block l as well.
        bfloat16: read the matrices of the blocks that are run again in bfloat16.
    """

    facts: Int[Tensor, " prompt"]
    """Whose each prompt is."""
    changed: tuple[Int[Tensor, " prompt"], Int[Tensor, " prompt"]]
    """Line and token at which δ acts, for each prompt."""
    bare: Int[Tensor, " fact"]
    """Which prompt is the fact's bare one."""
    reads: tuple[Int[Tensor, " read"], Int[Tensor, " read"]]
    """Line and token of every prediction that the loss is made of."""
    wanted: Int[Tensor, " read"]
    """The object's token there; any, where the essence is read."""
    objects: Int[Tensor, "fact context token"]
    """Which reads are those of the object's tokens; filled up where another fact's object is longer."""
    real: Bool[Tensor, "fact 1 token"]
    """Which of them are no filling."""
    essence: Int[Tensor, " fact"]
    """Which read is that of the essence term."""

    def __init__(
        self,
        model: EditableModel,
        tasks: Sequence[FactPrompts],
        layer: int,
        watch: tuple[str, ...],
        rerun: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self._tasks, self._device = list(tasks), model.device
        lines: list[int] = []
        for task in tasks:
            first = lines[-1] + 1 if lines else 0
            lines += [first + line for line in task.lines()]
        self.upper = UpperLayers(
            model,
            layer,
            [row for task in tasks for row in task.rows],
            [start for task in tasks for start in task.starts],
            lines,
            watch,
            rerun,
            [n for task in tasks for n in task.lengths],
            bfloat16,
        )
        self._index()

    def keep(self, facts: Sequence[int]) -> None:
        """Go on with these facts alone, numbered anew in their order."""
        prompts = len(self._tasks[0].rows)
        self.upper.keep([i * prompts + j for i in facts for j in range(prompts)])
        self._tasks = [self._tasks[i] for i in facts]
        self._index()

    def _index(self) -> None:
        tasks, prompts = self._tasks, len(self._tasks[0].rows)
        contexts, longest = prompts - 1, max(len(task.target) for task in tasks)
        self.facts = self._tensor([i for i in range(len(tasks)) for _ in range(prompts)])
        self.bare = self._tensor(range(0, len(self.facts), prompts))
        self.changed = self.upper.at(range(len(self.facts)), [at for task in tasks for at in task.changed])
        reads = [(i * prompts + prompt, at) for i, task in enumerate(tasks) for prompt, at in task.reads]
        self.reads = self.upper.at([prompt for prompt, _ in reads], [at for _, at in reads])
        self.wanted = self._tensor([t for task in tasks for t in [*task.target * contexts, 0]])
        objects, essence, first = [], [], 0
        for task in tasks:
            n = len(task.target)
            objects.append([[first + c * n + min(j, n - 1) for j in range(longest)] for c in range(contexts)])
            essence.append(first + contexts * n)
            first += contexts * n + 1
        self.objects, self.essence = self._tensor(objects), self._tensor(essence)
        self.real = self._tensor([[[j < len(task.target) for j in range(longest)]] for task in tasks])

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, device=self._device)
