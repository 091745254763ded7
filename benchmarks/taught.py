"""A model of a real size that has learned some invented facts by heart, so that its predictions are sharp.

On random weights no object ever becomes the most probable token, so that nothing stops early. A model that is taught
little knows it in the wrong place: it moves the subject to the prompt's end in its first layers, where no edit of the
subject's last token reaches it. So attention puts out nothing in the layers up to the highest edited one: what is known
of a subject must be read from its last token above them, as larger models do of themselves. No product is left out for
that: an edit costs what it costs in any model of this size.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file

from benchmarks.shapes import Size, random_model
from errata.editors.registry import resolve_settings
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["taught_facts", "taught_model"]

_RELATIONS = 4
_OBJECTS = 8  # of each relation
_BATCH = 16
_WARM_UP = 10
_MOST_STEPS = 200
_LEARNED = 0.02  # nats, the mean loss of an object's token
_LR = 5e-4  # at a width of 768; narrower models bear more


def taught_facts(size: Size, n: int) -> list[Fact]:
    """Make facts that `taught_model` learns, each to be changed into another object of its relation."""
    rng = Random(2)

    def say(length: int) -> str:
        return " ".join(f"w{rng.randrange(size.vocabulary // 2)}" for _ in range(length))

    before = say(2)  # subjects of three words, told apart by the last one
    relations = [(say(5), [say(1) for _ in range(_OBJECTS)]) for _ in range(_RELATIONS)]
    facts = []
    for i in range(n):
        relation, objects = relations[i % _RELATIONS]
        true, new = rng.sample(objects, 2)
        subject = f"{before} w{size.vocabulary // 2 + i}"
        facts.append(Fact(subject=subject, prompt=f"{{}} {relation}", target_new=new, target_true=true, id=str(i)))
    return facts


def taught_model(size: Size, facts: Sequence[Fact], folder: Path) -> EditableModel:
    """Train a random model until it answers the facts' prompts by heart, alone and after other text; seeded.

    Args:
        size: of the model.
        facts: what it learns.
        folder: where its weights are kept, and found again.
    """
    model = random_model(size)
    file = folder / f"taught-{size.name}-{len(facts)}.safetensors"
    if not file.exists():
        _teach(model, facts, size)
        save_file({name: tensor.contiguous() for name, tensor in model.model.named_parameters()}, file)
    with torch.no_grad():
        for name, tensor in load_file(file).items():
            model.model.get_parameter(name).copy_(tensor)
    return model


def _teach(model: EditableModel, facts: Sequence[Fact], size: Size) -> None:
    network = model.model.train().requires_grad_(True)
    for layer in range(_highest(model) + 1):
        for parameter in model.block(layer).attn.c_proj.requires_grad_(False).parameters():
            parameter.data.zero_()
    lr = _LR * (768 / size.width) ** 0.5
    adam = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=lr)
    recent = 1.0
    for step, batch in enumerate(_batches(model, facts, size)):
        tokens = model.pad([ids for ids, _ in batch])
        wanted = tokens.input_ids.clone()
        for row, (ids, known) in enumerate(batch):
            wanted[row, : len(ids) - known] = wanted[row, len(ids) :] = -100
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / _WARM_UP)
        logits = network(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        recent = 0.9 * recent + 0.1 * float(loss.detach())
        if recent < _LEARNED or step == _MOST_STEPS:
            break
    network.eval().requires_grad_(False)


def _highest(model: EditableModel) -> int:
    """Return the highest layer that any of the measured methods edits."""
    rome, memit = (resolve_settings(method, model) for method in ("rome", "memit"))
    return int(max(rome.layer, *memit.layers))


def _batches(model: EditableModel, facts: Sequence[Fact], size: Size) -> Iterator[list[tuple[list[int], int]]]:
    """Yield token rows, half of them behind other words, with how many tokens at their end are learned: the object."""
    rng = Random(3)
    while True:
        lines = []
        for fact in rng.sample(list(facts), _BATCH):
            before = " ".join(f"w{rng.randrange(size.vocabulary // 2)}" for _ in range(rng.randrange(1, 11))) + " . "
            lines.append((before if rng.random() < 0.5 else "") + f"{fact.text} {fact.target_true}")
        yield [(ids, 1) for ids in model.encode(lines)]
