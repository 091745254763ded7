"""Keys: what the edited projection receives at the subject's last token."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edits import Fact
from errata.models import EditableModel
from errata.models.hooks import Activation, capture

__all__ = ["at_subject", "mean_keys", "place"]

_ROWS = 64


def place(model: EditableModel, fact: Fact, template: str = "{}", prompt: str | None = None) -> tuple[list[int], int]:
    """Encode a fact's prompt inside a context template and find its subject's last token."""
    text = template.replace("{}", prompt or fact.prompt, 1)
    before, after = text.split("{}", 1)
    ids, position = model.subject_last(before, fact.subject, after)
    model.check_length(ids, f"fact {fact.id!r}: its prompt behind a context")
    return ids, position


@torch.no_grad()
def at_subject(
    model: EditableModel, path: str, placed: Sequence[tuple[list[int], int]]
) -> tuple[Float[Tensor, "row in"], Float[Tensor, "row out"]]:
    """Return input and output of the module at `path` at each placed position.

    The forward ends at that module.

    Args:
        model: the model, possibly under an overlay.
        path: module path.
        placed: token ids and position, a row each.
    """
    inputs, outputs = [], []
    for i in range(0, len(placed), _ROWS):
        chunk = placed[i : i + _ROWS]
        tokens = model.pad([ids for ids, _ in chunk])
        with capture(model.model, [path]) as seen:
            model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False)
        rows = torch.arange(len(chunk), device=model.device)
        positions = torch.tensor([p for _, p in chunk], device=model.device)
        activation: Activation = seen[path]
        inputs.append(activation.input[rows, positions])
        outputs.append(activation.output[rows, positions])
    return torch.cat(inputs), torch.cat(outputs)


def mean_keys(
    model: EditableModel, path: str, facts: Sequence[Fact], groups: Sequence[Sequence[str]]
) -> tuple[Float[Tensor, "edit in"], Float[Tensor, "edit out"]]:
    """Average key and output over context templates: the mean over groups of each group's mean.

    ROME's k* (2202.05262, eq. 3) has every context a group of its own; MEMIT's code gives the bare prompt the weight
    of all sampled prefixes together.
    """
    groups = [group for group in groups if group]
    templates = [t for group in groups for t in group]
    keys, outputs = at_subject(model, path, [place(model, f, t) for f in facts for t in templates])

    def average(rows: Tensor) -> Tensor:
        by_fact = rows.reshape(len(facts), len(templates), -1)
        parts = torch.split(by_fact, [len(group) for group in groups], dim=1)
        return torch.stack([part.mean(1) for part in parts]).mean(0)

    return average(keys), average(outputs)
