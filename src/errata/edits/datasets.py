"""The data sets by name, and the stream of facts that a recipe asks for."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Protocol

from errata.edits import counterfact, jsonl, knowedit, lab, mquake, rippleedits, wikibigedit, zsre
from errata.edits.dataset import DataReport, DataSet
from errata.edits.fact import Fact
from errata.edits.orders import apply_order
from errata.edits.stream import EditStream
from errata.errors import ConfigError, EditDataError, did_you_mean

__all__ = ["DATASETS", "DataReport", "DataSet", "Selection", "dataset", "load_facts", "load_stream"]

DATASETS: dict[str, DataSet] = {
    module.DATASET.name: module.DATASET
    for module in (lab, counterfact, zsre, mquake, rippleedits, knowedit, wikibigedit, jsonl)
}
"""Every data set by name."""


class Selection(Protocol):
    """Which facts and in which order: a recipe's section `edits`."""

    @property
    def dataset(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    @property
    def n(self) -> int | None: ...
    @property
    def skip(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def order(self) -> str: ...
    @property
    def repeat(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def order_file(self) -> str | None: ...
    @property
    def sample(self) -> str: ...


def dataset(name: str) -> DataSet:
    """Return the data set called `name`.

    Raises:
        ConfigError: when there is none; names the nearest.
    """
    if name not in DATASETS:
        hint = did_you_mean(name, DATASETS)
        raise ConfigError(f"edits.dataset is {name!r}; known data sets: {', '.join(DATASETS)}.{hint}")
    return DATASETS[name]


def load_facts(
    name: str,
    path: str | None = None,
    *,
    model: str = "",
    seed: int = 0,
    tell: Callable[[str], None] = lambda message: None,
) -> list[Fact]:
    """Read the facts of a data set, all of them, in its own order.

    Args:
        name: the data set.
        path: its file or hub name; its own default when None.
        model: the edited model's name, which gives "lab" its world.
        seed: of data sets that are drawn.
        tell: receives one remark a line on records that are left out.

    Raises:
        ConfigError: when there is no such data set.
        EditDataError: when it cannot be read; names file, line and field.
    """
    return dataset(name).read(path, model, seed, tell)


def load_stream(edits: Selection, model: str, tell: Callable[[str], None] = lambda message: None) -> EditStream:
    """Read, order and cut the facts that a recipe asks for.

    Args:
        edits: the recipe's section.
        model: the edited model's name.
        tell: receives one remark a line on what is unusual among the chosen facts.
    """
    facts = load_facts(edits.dataset, edits.path, model=model, seed=edits.seed, tell=tell)
    order = edits.order
    if edits.order_file is not None:
        facts, order = apply_order(facts, Path(edits.order_file), edits.sample), "given"
    stream = EditStream.build(
        facts,
        n=edits.n,
        skip=edits.skip,
        batch_size=edits.batch_size,
        order=order,
        repeat=edits.repeat,
        rng=Random(edits.seed),
    )
    if not stream.facts:
        skipped = f" after the {edits.skip} to skip" if edits.skip else ""
        raise EditDataError(
            f"the data set {edits.dataset!r} ({edits.path or 'its own source'}) holds no facts{skipped}."
        )
    for line in DataReport.of(stream.facts).lines():
        tell(line)
    return stream
