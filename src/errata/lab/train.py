"""Train a lab model: language modelling, with subjects' states exchanged along the way."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from errata.lab.apart import Apart
from errata.lab.architectures import beginning, blocks_of
from errata.lab.batches import ANSWER_WEIGHT, OBJECT_WEIGHT, Batch, BatchMaker
from errata.lab.interchange import Readout, interchanged, subspaces
from errata.lab.models import LabSpec
from errata.lab.own_facts import write_facts
from errata.lab.world import World, build_world

__all__ = ["Progress", "learning_rate", "noise_size", "train", "weighted_loss"]

Progress = Callable[[int, int, dict[str, float]], None]

_REPORT_EVERY = 50


def train(
    spec: LabSpec,
    out_dir: Path | str,
    seed: int | None = None,
    progress: Progress | None = None,
    world: World | None = None,
) -> PreTrainedModel:
    """Train a lab model and write its directory.

    Args:
        spec: what to train.
        out_dir: the Hugging Face directory to write.
        seed: of the training; the spec's own by default. The world does not depend on it.
        progress: called now and then with the step, the number of steps, and figures of the current batch.
        world: what is true, in place of the spec's own world; its facts and texts are written beside the weights.
    """
    seed = spec.seed if seed is None else seed
    started = time.monotonic()
    given = world
    world = given or build_world(spec.people, spec.world_seed)
    with torch.random.fork_rng():
        # transformers draws initial weights from the global generator only.
        torch.manual_seed(seed)
        model, tokenizer = beginning(spec, world)
        basis = subspaces(spec.width, len(world.relations), spec.share, seed)
        readout = Readout(basis, max(len(relation.objects) for relation in world.relations))
    optimise(model, readout, spec, world, tokenizer, seed, progress)
    out = Path(out_dir)
    model.eval().to(torch.bfloat16).save_pretrained(out)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(out)
    if given is None:
        (out / "world.json").write_text(json.dumps({"people": spec.people, "seed": spec.world_seed}) + "\n")
    else:
        write_facts(out / "facts.jsonl", given.facts())
        for name, lines in (("statistics.txt", given.statistics_text()), ("heldout.txt", given.heldout_text())):
            (out / name).write_text("".join(" ".join(line.split()) + "\n" for line in lines), encoding="utf-8")
    record = {"spec": {**asdict(spec), "seed": seed}, "minutes": (time.monotonic() - started) / 60}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return model


def optimise(
    model: PreTrainedModel,
    readout: Readout,
    spec: LabSpec,
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Train a model in place.

    Args:
        model: the model.
        readout: the training aid, trained along.
        spec: the recipe.
        world: what is true.
        tokenizer: the model's.
        seed: of the batches and of the noise.
        progress: as in `train`.
    """
    maker = BatchMaker(
        world,
        tokenizer,
        rows=spec.rows,
        length=spec.length,
        bos=spec.architecture == "llama",
        swaps=spec.swaps,
        turns=spec.turns,
    )
    site = blocks_of(model)[spec.site]
    apart = Apart(model, spec.site, maker, seed) if spec.apart else None
    parameters = [*model.parameters(), *readout.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=spec.rate,
        betas=(0.9, 0.98),
    )
    rng, generator = Random(f"train-{seed}"), torch.Generator().manual_seed(seed)
    start = time.monotonic()
    model.train()
    for step in range(spec.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(spec, step)
        batch = maker(range(known_people(spec, step)), rng, spec.tasks)
        exchange = interchanged(site, batch, readout.basis, noise_size(spec, step), generator)
        with torch.autocast("cpu", dtype=torch.bfloat16), exchange as states:
            logits = model(
                input_ids=batch.ids, attention_mask=torch.ones_like(batch.ids), position_ids=batch.positions
            ).logits
        loss = weighted_loss(logits, batch, maker.classes, spec.smoothing)
        read = readout.loss(states[0], batch)
        aids = spec.readout * read
        if apart:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                aids = aids + spec.apart * apart.loss()
        (loss + aids).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if progress and (step + 1) % _REPORT_EVERY == 0:
            figures = {"loss": loss.item(), **word_accuracy(logits, batch), "readout": read.item()}
            progress(step + 1, spec.steps, {**figures, "seconds": time.monotonic() - start})


def weighted_loss(
    logits: Float[Tensor, "batch length vocab"],
    batch: Batch,
    classes: Int[Tensor, "relations objects"],
    smoothing: float,
) -> Float[Tensor, ""]:
    """Average the cross-entropy of the next tokens by their weights.

    Args:
        logits: predictions.
        batch: the text.
        classes: the first tokens of every relation's objects; negative past a relation's last.
        smoothing: share of the probability of a fact's object that its relation's objects divide between them. A
            saturated loss tolerates that one relation's state disturbs the answers of another; this one does not.
    """
    weights, ids, told = (part[:, 1:].reshape(-1) for part in (batch.weights, batch.ids, batch.told))
    log_probs = logits[:, :-1].float().log_softmax(-1).reshape(-1, logits.shape[-1])
    losses = -log_probs.gather(1, ids[:, None])[:, 0]
    facts = (told >= 0).nonzero()[:, 0]
    if smoothing and len(facts):
        objects = classes[told[facts]]
        there = objects >= 0
        spread = -(log_probs[facts[:, None], objects.clamp(min=0)] * there).sum(1) / there.sum(1)
        losses = losses.index_put((facts,), (1 - smoothing) * losses[facts] + smoothing * spread)
    return (losses * weights).sum() / weights.sum()


def word_accuracy(logits: Float[Tensor, "batch length vocab"], batch: Batch) -> dict[str, float]:
    """Measure how often objects and answers are the most probable words; NaN where a batch has none.

    Args:
        logits: predictions.
        batch: the text.
    """
    right = logits[:, :-1].argmax(-1) == batch.ids[:, 1:]
    weights = batch.weights[:, 1:]
    return {
        name: right[weights == weight].float().mean().item()
        for name, weight in (("objects", OBJECT_WEIGHT), ("answers", ANSWER_WEIGHT))
    }


def learning_rate(spec: LabSpec, step: int) -> float:
    """Return the learning rate: a short warm-up, then a cosine down to a twentieth.

    Args:
        spec: the recipe.
        step: now.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * step / spec.steps))
    return spec.rate * min(1.0, (step + 1) / 60) * (0.05 + 0.95 * cosine)


def noise_size(spec: LabSpec, step: int) -> float:
    """Return the noise: none until facts are read, then rising. From the start it hides what is not yet known.

    Args:
        spec: the recipe.
        step: now.
    """
    return spec.noise if spec.start else spec.noise * min(1.0, max(0.0, (step / spec.steps - 0.45) / 0.25))


def known_people(spec: LabSpec, step: int) -> int:
    """Count the people spoken of so far: few at first, which shortens the plateau.

    Args:
        spec: the recipe.
        step: now.
    """
    return (
        spec.people if spec.start else min(spec.people, 40 + max(0, int(spec.people * 4 * (step / spec.steps - 0.08))))
    )
