"""Second moments of keys, C = E[k kᵀ], over a text source: computed once, cached by content, resumable."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from errata.editors.text_source import OWN, TextSource
from errata.errors import StatisticsError
from errata.files import cache_root, write_aside
from errata.models import EditableModel, identity_of
from errata.models.hooks import capture
from errata.models.writing import written_in

__all__ = ["SecondMoment", "StatisticsStore", "default_cache", "excess"]

_A_DIMENSION = 10  # tokens: what C is estimated from at the least
_LOOKED_AT = 256  # dimensions
_UNSEEN = 1e-2  # a smaller eigenvalue of the correlations is a direction without keys; varied text leaves none
_SAVE_EVERY = 50  # chunks; an interruption costs at most this many
_ENDLESS = 64  # times d tokens: a model some of whose neurons never fire has a singular C however much is read


@dataclass(frozen=True)
class SecondMoment:
    """C = E[k kᵀ] of one module's inputs, stored in float32 (as kmeng01/rome stores it), solved in float64.

    Args:
        matrix: C.
        tokens: over how many token positions.
    """

    matrix: Float[Tensor, "in in"]
    tokens: int

    def ridged(self, ridge: float) -> Float[Tensor, "in in"]:
        """Return C + ridge · mean(diag C) · I in float64.

        Raises:
            StatisticsError: when C cannot be inverted: fewer tokens than rows, and no ridge.
        """
        if not ridge and self.tokens < len(self.matrix):
            raise StatisticsError(f"{self.shortage()} Or set method.ridge above 0 (1e-3, say).")
        C = self.matrix.to(torch.float64, copy=True)
        if ridge:
            C.diagonal().add_(ridge * C.diagonal().mean())
        return C

    def with_keys(self, keys: Float[Tensor, "in key"], weight: float) -> "SecondMoment":
        """Return C + β·mean(k kᵀ) over further keys.

        Args:
            keys: K, a key a column.
            weight: β.
        """
        K = keys.double()
        return SecondMoment((self.matrix.double() + weight * (K @ K.T) / K.shape[1]).float(), self.tokens)

    def shortage(self) -> str:
        """Say what is wrong with the text behind C, and what is needed: too few tokens, or too few different keys."""
        d = len(self.matrix)
        advice = (
            f"At least {_A_DIMENSION * d:,} tokens of varied text are needed: -o method.statistics.source=FILE.txt."
        )
        if self.tokens < d:
            return f"C has {d:,} dimensions, but its text gave {self.tokens:,} tokens, too few to invert it. {advice}"
        # Equal text has equal keys, however much there is of it. A part of C shows it as well as the whole.
        chosen = torch.arange(min(d, _LOOKED_AT)) * d // min(d, _LOOKED_AT)
        part = self.matrix[chosen][:, chosen].double().cpu()
        if not bool(torch.isfinite(part).all()):
            return ""  # its solve will say so
        alive = part.diagonal() > 0
        part, size = part[alive][:, alive], part.diagonal()[alive].sqrt()
        seen = int((torch.linalg.eigvalsh(part / (size[:, None] * size)) > _UNSEEN).sum())
        if 2 * seen >= len(chosen):
            return ""
        return (
            f"C has {d:,} dimensions, but its {self.tokens:,} tokens give keys in only about "
            f"{seen * d // len(chosen):,} of them: the text repeats itself. {advice}"
        )


class StatisticsStore:
    """Give second moments, from the cache where they are, else computed.

    Args:
        cache: directory of the cache; None keeps nothing on disk.
        progress: called with (done, total) text chunks while computing.
        tell: receives a warning where the text behind C does not suffice.
    """

    def __init__(
        self,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._cache = cache
        self._tell = tell
        self._progress = progress or (lambda done, total: None)

    def second_moments(self, model: EditableModel, layers: Sequence[int], source: TextSource) -> list[SecondMoment]:
        """Return C of the feed-forward output projection of each layer; all missing layers in one pass over the text.

        Args:
            model: the unedited model.
            layers: layer indices.
            source: the text and how much of it.

        Raises:
            StatisticsError: when the text gives no tokens or a cached file is damaged.
        """
        key = {"model": str(identity_of(model)), "text": source.fingerprint(), "dtype": str(model.dtype)}
        if source.source == OWN:
            key["written in"] = str(written_in(model))
        paths = {layer: model.mlp_out(layer) for layer in layers}
        files = {
            layer: None if self._cache is None else self._cache / f"{_digest({**key, 'module': path})}.safetensors"
            for layer, path in paths.items()
        }
        found = {layer: _read(file, model.device) for layer, file in files.items() if file and file.exists()}
        missing = [layer for layer in dict.fromkeys(layers) if layer not in found]
        if missing:
            partial = None
            if self._cache is not None:
                # A partial sum counts chunks.
                inexact = {**key, "modules": [paths[i] for i in missing], "batch": source.batch}
                partial = self._cache / f"partial-{_digest(inexact)}.safetensors"
            computed = self._accumulate(model, [paths[i] for i in missing], source, partial)
            for layer, moment in zip(missing, computed, strict=True):
                found[layer] = moment
                file = files[layer]
                if file is not None:
                    _write(
                        file,
                        {"C": moment.matrix},
                        {"tokens": str(moment.tokens), "module": paths[layer], **key},
                    )
            if partial is not None:
                partial.unlink(missing_ok=True)
        if layers and (short := found[layers[0]].shortage()):  # one text, one shortage
            self._tell(f"warning: {short}")
        return [found[layer] for layer in layers]

    def number(self, model: EditableModel, what: Mapping[str, Any], compute: Callable[[], float]) -> float:
        """Return a number measured on the unedited model: from the cache where it is, else computed.

        Args:
            model: the unedited model.
            what: everything else that the number depends on, as JSON values.
            compute: measures it.
        """
        key = {"model": str(identity_of(model)), "dtype": str(model.dtype), **what}
        file = None if self._cache is None else self._cache / f"{_digest(key)}.json"
        if file is not None and file.exists():
            try:
                return float(json.loads(file.read_text(encoding="utf-8"))["number"])
            except (OSError, ValueError, KeyError, TypeError) as e:
                raise StatisticsError(f"the cached {file} cannot be read ({e}). Delete it; it is computed anew.") from e
        number = compute()
        if file is not None:
            write_aside(file, json.dumps({"number": number, **key}).encode())
        return number

    def derived(self, what: str, source: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """Return what was computed of a matrix: from the cache where it is, else computed.

        Args:
            what: what it is, with every setting on which it depends.
            source: the matrix; its content is part of the key.
            compute: computes it.
        """
        if self._cache is None:
            return compute().contiguous()  # the layout that a file keeps, on which last bits of products depend
        content = hashlib.sha256(source.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        file = self._cache / f"{_digest({'what': what, 'of': content})}.safetensors"
        if file.exists():
            return _open(file)[0]["derived"].to(source.device, copy=True)  # out of the file's alignment
        found = compute().contiguous()
        _write(file, {"derived": found}, {"what": what, "of": content})
        return found

    @torch.no_grad()
    def _accumulate(
        self, model: EditableModel, paths: list[str], source: TextSource, partial: Path | None
    ) -> list[SecondMoment]:
        sums: dict[str, Tensor] = {}
        tokens, start = dict.fromkeys(paths, 0), 0
        if partial is not None and partial.exists():
            stored, meta = _open(partial)
            sums = {path: stored[path].to(model.device) for path in paths}
            tokens, start = json.loads(meta["tokens"]), int(meta["chunks"])
        width = {path: model.weight(path).shape[1] for path in paths}
        stop, expected = source.stop, source.expected_chunks(max(width.values()))
        # Each layer ends by its own keys: its C does not depend on which others are asked for with it.
        going = [path for path in paths if tokens[path] >= 0]
        for i, chunk in enumerate(source.chunks(model, start), start + 1):
            if not chunk:
                continue
            keys = _keys(model, going, chunk)
            for path in list(going):
                found = keys.pop(path).double()
                if path not in sums:
                    sums[path] = found.new_zeros(found.shape[1], found.shape[1])
                seen, least = tokens[path], 2 * width[path]
                enough = stop is not None and seen >= least and excess(sums[path] / seen, found) <= stop
                sums[path].addmm_(found.T, found)
                tokens[path] += len(found)
                if enough or (stop is not None and tokens[path] >= _ENDLESS * width[path]):
                    going.remove(path)
            self._progress(i, max(i, expected))
            if not going:
                break
            if partial is not None and i % _SAVE_EVERY == 0:
                counts = {path: n if path in going else -abs(n) for path, n in tokens.items()}  # negative: has ended
                _write(partial, sums, {"tokens": json.dumps(counts), "chunks": str(i)})
        tokens = {path: abs(n) for path, n in tokens.items()}
        if not all(tokens.values()):
            raise StatisticsError(
                f"the text source {source.source!r} gave no tokens; statistics need text. Name a longer one."
            )
        # One by one: all sums and all means together would be the most that a run holds.
        return [SecondMoment(sums.pop(p).div_(tokens[p]).float(), tokens[p]) for p in paths]


def excess(C: Float[Tensor, "in in"], keys: Float[Tensor, "token in"]) -> float:
    """Return the mean of kᵀC⁻¹k over keys that C has not counted, as a multiple of d.

    Over the keys that it has counted the mean is d exactly, so 1 says that C is as good for keys to come. Of n Gaussian
    keys C gives n/(n − d − 1). Infinite where C is singular, not a number for a dead model.

    Args:
        C: the second moment of the keys so far, in float64.
        keys: further keys.
    """
    factor, info = torch.linalg.cholesky_ex(C)
    if int(info) != 0:
        return math.inf
    whitened = torch.linalg.solve_triangular(factor, keys.T, upper=False)
    return float(whitened.pow(2).sum(0).mean() / len(C))


def _keys(model: EditableModel, paths: Sequence[str], rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return what modules receive at every token of the rows."""
    batch = model.pad(rows)
    with capture(model.model, paths) as seen:
        model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    kept = batch.attention_mask.bool()
    return {path: seen[path].input[kept] for path in paths}


def _digest(key: object) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _write(file: Path, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
    write_aside(file, save({k: t.cpu().contiguous() for k, t in tensors.items()}, metadata=meta))


def _read(file: Path, device: torch.device) -> SecondMoment:
    tensors, meta = _open(file)
    return SecondMoment(tensors["C"].to(device), int(meta["tokens"]))


def _open(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata())  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, TypeError) as e:
        raise StatisticsError(
            f"the cached statistics {file} cannot be read ({e}). Delete the file; they will be computed anew."
        ) from e


def default_cache() -> Path:
    """Return the directory of the statistics cache: $ERRATA_CACHE, else ~/.cache/errata."""
    return cache_root() / "statistics"
