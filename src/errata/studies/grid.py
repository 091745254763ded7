"""A grid over a recipe: which runs it asks for, and where each is kept."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from errata.errors import ConfigError
from errata.studies.recipe import Recipe, lay, lay_override, load_recipe

__all__ = ["Cell", "cells", "read_grid", "shard_of"]

_LONGEST = 100  # characters of a directory's readable part


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        axes: the value of each key of the grid.
        recipe: what is run, named after the axes.
        directory: where under the sweep's own: the axes in words, and a hash of the whole recipe.
    """

    axes: Mapping[str, Any]
    recipe: Recipe
    directory: str


def read_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read `key=v1,v2,...`: the values are what a YAML list holds between its brackets.

    Args:
        texts: one text a key; values that are lists or mappings have brackets or braces of their own.

    Raises:
        ConfigError: when one is no such text, or names a key or a value twice.

    Example:
        >>> read_grid(["method.name=rome,memit", "method.layers=[0, 1],[1]", "edits.seed=0,1"])
        {'method.name': ['rome', 'memit'], 'method.layers': [[0, 1], [1]], 'edits.seed': [0, 1]}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, sign, values = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"--grid {text!r}: write key=v1,v2, for instance edits.seed=0,1,2.")
        try:
            found: list[Any] = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError as e:
            raise ConfigError(f"--grid {text!r}: {values!r} are not the items of a YAML list: {e}") from e
        if key in grid or not found or len({json.dumps(v, default=str) for v in found}) < len(found):
            what = "the key stands twice" if key in grid else "a value stands twice" if found else "there is no value"
            raise ConfigError(f"--grid {text!r}: {what}; name each key once, with its different values.")
        grid[key] = found
    return grid


def cells(source: Path | Mapping[str, Any], overrides: Sequence[str], grid: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Return the runs of a grid, in an order that does not change: the last key varies fastest.

    A method named by the grid is named before the overrides are laid, so that these are its settings.

    Args:
        source: the recipe, as a file or its content.
        overrides: `key=value`, the same for all runs.
        grid: the values of each key.

    Raises:
        ConfigError: when a combination is no recipe; names the key.
    """
    for override in overrides:
        if (key := override.partition("=")[0]) in grid:
            raise ConfigError(f"-o {key} is a key of the grid too; set it in one of both.")
    recipe = load_recipe(source).model_dump(mode="json", exclude_unset=True)
    found = []
    for values in product(*grid.values()):
        axes = dict(zip(grid, values, strict=True))
        content = deepcopy(recipe)
        if "method.name" in axes:
            lay(content, "method.name", axes["method.name"])
        for override in overrides:
            lay_override(content, override)
        for key, value in axes.items():
            lay(content, key, deepcopy(value))
        found.append(_cell(axes, load_recipe(content)))
    return found


def shard_of(cells: Sequence[Cell], shard: str) -> list[Cell]:
    """Return every n-th run from the i-th on, for a shard "i/n" with i from 1 to n.

    Raises:
        ConfigError: when it is no such text.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    i, n = map(int, match.groups()) if match else (0, 0)
    if not 1 <= i <= n:
        raise ConfigError(f"--shard {shard!r}: write i/n with i from 1 to n, for instance 1/4.")
    return list(cells[i - 1 :: n])


def _cell(axes: Mapping[str, Any], recipe: Recipe) -> Cell:
    """Name a run; what changes nothing in it (its name, its report's title, who is told) is not in the hash."""
    content = recipe.model_dump(mode="json", exclude_unset=True)
    counted: dict[str, Any] = {
        section: dict(content[section]) for section in content if section not in ("report", "probes")
    }
    for key in ("name", "tracker"):
        counted.get("run", {}).pop(key, None)
    counted["probes"] = content.get("probes")
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:8]
    name = "_".join(_words(key, value) for key, value in axes.items())[:_LONGEST]
    lay(content, "run.name", name)
    return Cell(axes, load_recipe(content), f"{name}_{digest}")


def _words(key: str, value: Any) -> str:
    """Return a key's last part with its value; what is called `name` needs no key."""
    part = key.rpartition(".")[2]
    flat = re.findall(r"[\w.]+", Path(value).name if part == "name" else json.dumps(value))
    return "-".join([*([] if part == "name" else [part]), *flat])
