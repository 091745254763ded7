"""Fixed edit orders: index files such as the first paper's `edit_orders_unique_10x20391.json.gz`."""

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from errata.edits.fact import Fact
from errata.errors import ConfigError
from errata.files import decoded

__all__ = ["apply_order"]


def apply_order(facts: Sequence[Fact], file: Path, sample: str) -> list[Fact]:
    """Return the facts that one of a file's orders names, in its order.

    The first paper (2401.07453 §3) keeps the first CounterFact record of each lower-cased subject and shuffles ten
    times; its Samples 1 to 4 are the orders "0" to "3".

    Args:
        facts: the whole data set; an index names the fact whose id it is (CounterFact's case id).
        file: JSON, gzipped or not: {"0": [index, ...], ...}, a list of such lists, or one list.
        sample: which order.

    Raises:
        ConfigError: when the file cannot be read, has no such order, or names a fact that there is not.
    """
    try:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        orders = json.loads(decoded(content, file, ConfigError, what="edits.order_file"))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as e:
        raise ConfigError(f"edits.order_file {file} cannot be read ({e}).") from e
    if isinstance(orders, list):
        nested = bool(orders) and isinstance(orders[0], list)
        orders = {str(i): order for i, order in enumerate(orders)} if nested else {"0": orders}
    if not isinstance(orders, dict) or sample not in orders:
        known = ", ".join(orders) if isinstance(orders, dict) else "none"
        raise ConfigError(f"edits.sample is {sample!r}, but {file} holds the orders: {known}.")
    if not isinstance(orders[sample], list):
        raise ConfigError(f"{file}, order {sample!r}: a list of indices is needed, found {str(orders[sample])[:80]}.")
    by_id = {fact.id: fact for fact in facts}
    chosen = []
    for position, index in enumerate(orders[sample]):
        fact = by_id.get(str(index))
        if fact is None:
            raise ConfigError(
                f"{file}, order {sample!r}, position {position}: there is no fact with the id {index!r} among the "
                f"{len(facts)} of this data set; order file and data set do not belong together."
            )
        chosen.append(fact)
    return chosen
