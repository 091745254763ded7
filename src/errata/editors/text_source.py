"""Text for statistics: what the model writes itself, a lab world's own text, a local file, or a hub data set."""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import torch
from pydantic import Field

from errata.editors.settings import EditorSettings
from errata.errors import StatisticsError
from errata.files import decoded
from errata.lab.models import LAB_MODELS, load_world
from errata.models import EditableModel
from errata.models.writing import written

__all__ = ["OWN", "TextSource"]

OWN = "self"
"""The source that stands for text which the model writes itself."""

_OWN_ROWS = 32  # a chunk
_OWN_CHUNKS = 4  # written together: a processor is then busy with products, not with reading weights
_OWN_VERSION = 2  # of how it is written: with another, the same seed gives another text
_OWN_TOKENS = 64  # a text; subjects of facts stand near the beginning of a text

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILE_ENDINGS = (".txt", ".text", ".jsonl", ".json", ".csv", ".tsv", ".md", ".gz", ".zip", ".parquet", ".tokens")
_HUB_TIMEOUT_S = 3.0


class TextSource(EditorSettings):
    """Where the text comes from and how much of it is read."""

    source: str = OWN
    """"self" (text that the model writes itself, which needs no file and no network), a lab model's name (its world's
    text), a .txt or .jsonl file (field `text`), or a hub data set `name[:config]`. The published methods read
    "wikimedia/wikipedia:20231101.en"; the recipes in `recipes/papers` do so too."""
    bound: float | None = Field(default=2.5, gt=1)
    """Read own text and hub data sets until C is known this well: until keys that it has not counted have a mean
    kᵀC⁻¹k of at most this many times d. Exact statistics give 1; what more and fewer tokens come to is measured in
    docs/real-models.md. Lab texts and files are read to their end. None (null): all `samples` are read, as
    published."""
    samples: int = Field(default=100_000, ge=1)
    """How many texts at most (`mom2_n_samples`). 100,000 in kmeng01/rome."""
    max_tokens: int = Field(default=512, ge=2)
    """Texts are cut to this many tokens. Own texts have 64 at most."""
    batch: int = Field(default=16, ge=1)
    """Texts in one forward."""
    seed: int = 0
    """Seed of own text."""

    def texts(self) -> Iterator[str]:
        """Yield the texts in their order.

        Raises:
            StatisticsError: when the source is nowhere to be found.
        """
        return islice((t for t in self._open() if t.strip()), self.samples)

    @property
    def stop(self) -> float | None:
        """The bound at which reading stops; None where all is read."""
        return None if self._is_local() else self.bound

    def fingerprint(self) -> str:
        """Return a hash of the text that will be read; a hub data set and own text stand by their names."""
        if self.source == OWN:
            return f"{OWN}/{_OWN_VERSION}/{self.seed}/{self.samples}/{self._own_tokens()}/{self.bound}"
        if self._is_local():
            digest = hashlib.sha256()
            for text in self.texts():
                digest.update(text.encode() + b"\0")
            content = digest.hexdigest()
        else:
            # Whether it is enough is asked once a batch.
            content = f"{self.source}/{self.bound}" + (f"/{self.batch}" if self.bound is not None else "")
        return f"{content}/{self.samples}/{self.max_tokens}"

    def chunks(self, model: EditableModel, skip: int = 0) -> Iterator[list[list[int]]]:
        """Yield the token rows to be counted, as many together as go through one forward.

        Args:
            model: the unedited model, which writes own text and tokenizes any other.
            skip: how many chunks to pass over.
        """
        if self.source == OWN:
            yield from self._own(model, skip)
            return
        limit, texts = min(self.max_tokens, model.positions), self.texts()
        while part := list(islice(texts, self.batch)):
            if skip:
                skip -= 1
                continue
            with model.bare():
                yield [row[:limit] for row in model.encode(part) if row]

    def expected_chunks(self, width: int) -> int:
        """Return how many chunks will be read, about: for progress and plans.

        Args:
            width: d, the length of a key.
        """
        if self._is_local():
            return -(-sum(1 for _ in self.texts()) // self.batch)
        rows, tokens = (_OWN_ROWS, self._own_tokens()) if self.source == OWN else (self.batch, self.max_tokens)
        return -(-self.expected_tokens(width) // (rows * tokens))

    def expected_tokens(self, width: int) -> int:
        """Return how many tokens will be read, about, where every text is as long as texts may be.

        Args:
            width: d, the length of a key.
        """
        tokens = self._own_tokens() if self.source == OWN else self.max_tokens
        texts = self.samples
        if self.stop is not None:
            # Of Gaussian keys, n of them give the ratio n/(n - d - 1); those of a model have heavier tails.
            texts = min(texts, -(-round(1.5 * width * self.stop / (self.stop - 1)) // tokens))
        return texts * tokens

    def _own(self, model: EditableModel, skip: int) -> Iterator[list[list[int]]]:
        """Yield chunks of own text, several of them written together; each group of them has a seed of its own."""
        length = min(self._own_tokens(), model.positions)
        first, left_out = divmod(skip, _OWN_CHUNKS)
        together = _OWN_ROWS * _OWN_CHUNKS
        for group in count(first):
            rows = min(together, self.samples - group * together)
            if rows < 1:
                return
            generator = torch.Generator().manual_seed((self.seed << 32) + group)
            texts = written(model, rows, length, generator)
            begin = left_out * _OWN_ROWS if group == first else 0
            yield from (texts[i : i + _OWN_ROWS] for i in range(begin, rows, _OWN_ROWS))

    def _own_tokens(self) -> int:
        return min(self.max_tokens, _OWN_TOKENS)

    def check(self) -> str:
        """Say where the text will come from, without reading it.

        Raises:
            StatisticsError: when the source is a file that does not exist, or a directory.
        """
        if self.source == OWN:
            return "text that the model writes itself"
        if self.source in LAB_MODELS:
            return f"the text of {self.source}'s world"
        path = Path(self.source)
        if path.is_dir():
            raise StatisticsError(
                f"method.statistics.source is {self.source}, which is a directory; a .txt or .jsonl file, or a hub "
                f"data set, is needed."
            )
        if path.exists():
            return f"the file {self.source}"
        if not _may_be_hub_name(self.source):
            raise StatisticsError(f"the text file {self.source} does not exist; statistics need a .txt or .jsonl file.")
        if _in_cache(self.source):
            return f"the data set {self.source}, of which a copy is in the local cache"
        return f"the data set {self.source}, which must be fetched from the hub: no copy is in the local cache"

    def _is_local(self) -> bool:
        return self.source != OWN and (self.source in LAB_MODELS or Path(self.source).exists())

    def _open(self) -> Iterator[str]:
        self.check()
        if self.source in LAB_MODELS:
            return iter(load_world(self.source).statistics_text())
        path = Path(self.source)
        return _lines(path) if path.exists() else _hub(self.source)


def _may_be_hub_name(source: str) -> bool:
    """Tell "owner/name:20231101.en", whose dot is no file's ending, from a file that is not there."""
    name, _, _ = source.partition(":")
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        return False
    return "." not in name if "/" not in name else not name.lower().endswith(_FILE_ENDINGS)


def _in_cache(source: str) -> bool:
    """Say whether a hub data set was fetched before, by `datasets` or as files."""
    from datasets import config
    from huggingface_hub import constants

    name, _, _ = source.partition(":")
    prepared = Path(config.HF_DATASETS_CACHE) / name.replace("/", "___")
    fetched = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return prepared.is_dir() or fetched.is_dir()


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as f:
        for number, content in enumerate(f, 1):
            line = decoded(content, path, StatisticsError, number, "method.statistics.source")
            if path.suffix != ".jsonl":
                yield line.rstrip("\r\n")
                continue
            try:
                yield str(json.loads(line)["text"])
            except (ValueError, KeyError, TypeError) as e:
                raise StatisticsError(
                    f"{path}, line {number}: a JSON object with a field `text` is needed ({e})."
                ) from e


def _hub(name: str) -> Iterator[str]:
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    dataset, _, config = name.partition(":")
    offline = constants.HF_HUB_OFFLINE
    try:
        if not offline:  # asked once and briefly: `datasets` alone retries for minutes when there is no network
            HfApi().dataset_info(dataset, timeout=_HUB_TIMEOUT_S)
        stream = load_dataset(dataset, config or None, split="train", streaming=not offline)
        for record in stream:
            yield str(record["text"])
    except Exception as e:
        raise StatisticsError(
            f"the text source {name!r} is no lab model, no file here, and no data set that can be read from the hub "
            f"({type(e).__name__}). Give a local text: -o method.statistics.source=FILE.txt"
        ) from e
