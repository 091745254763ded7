"""The orders of edits that the studies ask for, each kept in a file that recipes name."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from errata.edits import Fact
from errata.edits.datasets import load_facts
from errata.lab.models import load_world
from errata.studies.reproduce.work import Size

__all__ = ["KEPT", "half", "long", "orders_of", "same", "section"]

KEPT = 20
"""People of whom no run edits anything, so that something is left to ask about: the last of the world."""


def same(model: str, number: int) -> list[str]:
    """Return the same facts, one of each person, in an order of their own for each number."""
    ids = [fact.id for fact in _first_round(_editable(model, 0))]
    Random(f"order-{number}").shuffle(ids)
    return ids


def long(model: str, number: int) -> list[str]:
    """Return all facts but those of the kept people: everyone once, then everyone again with another relation."""
    return [fact.id for fact in _editable(model, number)]


def half(model: str, number: int) -> list[str]:
    """Return one fact of each person that has one among the first half of the relations in this draw."""
    relations = {r.name for r in load_world(model).relations[: len(load_world(model).relations) // 2]}
    return [f.id for f in _first_round([f for f in _editable(model, number) if f.relation in relations])]


def orders_of(streams: Mapping[str, Callable[[str, int], list[str]]], size: Size) -> dict[str, str]:
    """Return a file of its own for each kind of stream and each sample: no question of another overwrites it."""
    orders = {f"{kind}-{k}": draw(size.model, k) for kind, draw in streams.items() for k in range(size.samples)}
    return {_file(name): json.dumps({name: ids}, indent=0) + "\n" for name, ids in orders.items()}


def section(kind: str, number: int, n: int, out: Path, **more: object) -> dict[str, object]:
    """Return a recipe's section `edits` that takes the first n facts of an order.

    Args:
        kind: of stream: "same", "long" or "half".
        number: of the order, and of the draw where that differs.
        n: how many.
        out: the directory below which the orders lie.
        more: further keys.
    """
    seed, name = 0 if kind == "same" else number, f"{kind}-{number}"
    return {"dataset": "lab", "n": n, "seed": seed, "order_file": str(out / _file(name)), "sample": name, **more}


def _file(name: str) -> str:
    return f"orders/{name}.json"


def _editable(model: str, seed: int) -> list[Fact]:
    kept = {*load_world(model).people[-KEPT:]}
    return [fact for fact in load_facts("lab", model=model, seed=seed) if fact.subject not in kept]


def _first_round(facts: Sequence[Fact]) -> list[Fact]:
    first: dict[str, Fact] = {}
    for fact in facts:
        first.setdefault(fact.subject, fact)
    return list(first.values())
