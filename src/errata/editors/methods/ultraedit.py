"""UltraEdit: one closed-form step over keys and gradients normalised by all edits so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.finetuning import Step
from errata.editors.gradients import Pair, pairs_of, token_gradients
from errata.editors.projections import projections
from errata.editors.settings import EditorSettings
from errata.editors.solve import Factored
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Change, Dense, LowRank, Update
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["Moments", "UltraEdit", "UltraEditSettings"]

_SHARE = 0.3  # of an output's size, by which one token moves it with an "auto" η


class UltraEditSettings(EditorSettings):
    """Settings of UltraEdit. Defaults are those of XiaojieGu/UltraEdit."""

    unpublished: ClassVar[Mapping[str, Any]] = {"lr": "auto"}

    modules: tuple[str, ...] = ()
    """The edited projections, by the end of their path ("18.mlp.up_proj", "fc_out"). When empty, the feed-forward
    output projections at the depth of GPT-J's 18 to 26. Llama-3 8B: gate_proj of 11–15 and up_proj of 18–24."""
    lr: Step = 1e-6
    """η, the only size there is to choose. "auto", the default where a model has no published settings: every token
    that gives features moves the output by about a third of its own size, whatever the width of the model and the
    length of its vectors. With the published η a narrow model's edits are too small to be seen."""
    mini_batch: int = Field(default=10, ge=1)
    """Facts in one backward pass. Its loss is a mean over all of their tokens: the number scales gradients a little."""
    tokens: Literal["all", "target"] = "all"
    """Which tokens give features: all of prompt and target but the last (`token: mask`), as in EasyEdit's files;
    or those alone from which the target's tokens are predicted (`token: ans`), as the paper says."""
    variance: Literal["published", "unbiased"] = "published"
    """How a mini-batch enters the running variance: n times its unbiased variance, as the published code does, or the
    n − 1 times that make the whole unbiased."""


@dataclass(frozen=True)
class Moments:
    """Mean and summed squared distances from it of rows; the sum of two is that of the rows of both.

    Args:
        count: of the rows.
        mean: μ.
        squares: (n − 1) σ².
    """

    count: int
    mean: Float[Tensor, " width"]
    squares: Float[Tensor, " width"]

    @classmethod
    def of(cls, rows: Float[Tensor, "row width"], variance: Literal["published", "unbiased"]) -> "Moments":
        """Return the moments of one mini-batch."""
        mean = rows.mean(0)
        squares = ((rows - mean) ** 2).sum(0)
        if variance == "published" and len(rows) > 1:
            squares = squares * len(rows) / (len(rows) - 1)
        return cls(len(rows), mean, squares)

    def __add__(self, other: "Moments") -> "Moments":
        mean, squares = self.mean.to(other.mean), self.squares.to(other.mean)
        total = self.count + other.count
        apart = other.mean - mean
        between = apart**2 * (self.count * other.count / total)
        return Moments(total, mean + apart * (other.count / total), squares + other.squares + between)

    def normalise(self, rows: Float[Tensor, "row width"], epsilon: float) -> Float[Tensor, "row width"]:
        """Return (z − μ)/(σ + ε)."""
        return (rows - self.mean) / ((self.squares / max(self.count - 1, 1)).sqrt() + epsilon)


class UltraEdit(Editor):
    """Solve ΔWᵀ = (HᵀH + I)⁻¹ HᵀV, vᵢ = −η‖ĥᵢ‖² ĝᵢ, [ĥᵢ; ĝᵢ] = ([hᵢ; ∂L/∂yᵢ] − μ)/(σ + ε) (2505.14679).

    hᵢ enters and yᵢ leaves the projection at token i. μ and σ run over all edits so far, this batch's included, and
    over all projections of one shape together: lifelong normalisation, the method's whole memory.
    """

    name: ClassVar[str] = "ultraedit"
    paper: ClassVar[str] = "2505.14679"
    Settings: ClassVar[type[UltraEditSettings]] = UltraEditSettings

    def __init__(self, settings: UltraEditSettings) -> None:
        self.settings = settings
        self._moments: dict[str, Moments] = {}

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Check that the projections exist, and forget all edits."""
        self._paths(model)
        self._moments = {}

    def _paths(self, model: EditableModel) -> list[str]:
        if self.settings.modules:
            return projections(model, self.settings.modules)
        first, last = (round(depth * (model.n_layers - 1)) for depth in (18 / 27, 26 / 27))
        return [model.mlp_out(layer) for layer in range(first, last + 1)]

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return a change of every projection: low-rank while the batch has few tokens for the projection's size."""
        s = self.settings
        paths = self._paths(model)
        gathered: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in paths}
        new: dict[str, Moments] = {}
        loss = 0.0
        for start in range(0, len(batch), s.mini_batch):
            pairs = pairs_of(model, batch[start : start + s.mini_batch])
            found, mean_loss = token_gradients(model, paths, pairs)
            loss += float(mean_loss) * len(pairs) / len(batch)
            at = self._used(pairs)
            for path in paths:
                h, g = found[path].inputs[at].double(), found[path].deltas[at].double()
                gathered[path].append((h, g))
                _add(new, _shape(model, path), Moments.of(torch.cat([h, g], 1), s.variance))

        lifelong = dict(self._moments)
        for shape, moments in new.items():
            _add(lifelong, shape, moments)
        epsilon = torch.finfo(torch.promote_types(model.dtype, torch.float32)).eps
        changes: dict[str, Change] = {}
        conditions = []
        for path in paths:
            H, G = (torch.cat(parts) for parts in zip(*gathered[path], strict=True))
            z = lifelong[_shape(model, path)].normalise(torch.cat([H, G], 1), epsilon)
            h_hat, g_hat = z[:, : H.shape[1]], z[:, H.shape[1] :]
            eta = _step(model.weight(path), H) if s.lr == "auto" else s.lr
            changes[path], condition = _ridge(H, -eta * (h_hat**2).sum(1, keepdim=True) * g_hat, path)
            conditions.append(condition)
        details = {
            f"{what}|{path}": torch.cat([parts[i] for parts in gathered[path]])
            for path in paths
            for i, what in enumerate(("keys", "gradients"))
        }
        return Update(changes, {"loss": loss, "condition": max(conditions)}, _pack(new), details)

    def _used(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Return rows and positions of the tokens that give features."""
        starts = [0 if self.settings.tokens == "all" else len(prompt) - 1 for prompt, _ in pairs]
        places = [
            (row, position)
            for row, (start, (prompt, target)) in enumerate(zip(starts, pairs, strict=True))
            for position in range(start, len(prompt) + len(target) - 1)
        ]
        rows, positions = torch.tensor(places).T
        return rows, positions

    def remember(self, update: Update) -> None:
        """Add the applied batch's moments to those of all edits."""
        for shape, moments in _unpack(update.memory).items():
            _add(self._moments, shape, moments)

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of all edits, for every shape of projection."""
        return dict(_pack(self._moments))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the moments."""
        self._moments = _unpack(state)


def _shape(model: EditableModel, path: str) -> str:
    d_out, d_in = model.weight(path).shape
    return f"{d_in}x{d_out}"


def _add(to: dict[str, Moments], shape: str, moments: Moments) -> None:
    to[shape] = to[shape] + moments if shape in to else moments


def _pack(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    parts = ((shape, m, part) for shape, m in moments.items() for part in ("count", "mean", "squares"))
    return {f"{shape}.{part}": torch.as_tensor(getattr(m, part)) for shape, m, part in parts}


def _unpack(tensors: Mapping[str, Tensor]) -> dict[str, Moments]:
    shapes = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    return {
        s: Moments(int(tensors[f"{s}.count"]), tensors[f"{s}.mean"].double(), tensors[f"{s}.squares"].double())
        for s in shapes
    }


def _ridge(H: Float[Tensor, "n in"], V: Float[Tensor, "n out"], path: str) -> tuple[Change, float]:
    """Return ΔW = Vᵀ (HHᵀ + I)⁻¹ H = Vᵀ H (HᵀH + I)⁻¹, by the smaller of the two systems, and its condition number."""
    n, d_in = H.shape
    wide = n * (d_in + V.shape[1]) < d_in * V.shape[1]
    gram = H @ H.T if wide else H.T @ H
    system = Factored(gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device), f"the Gram matrix of {path}")
    if wide:
        return LowRank(V.T, system.solve(H)), system.condition
    return Dense(system.solve(H.T @ V).T), system.condition


def _step(weight: Float[Tensor, "out in"], H: Float[Tensor, "n in"]) -> float:
    """Return η so that η‖ĥ‖², ‖ĥ‖² being about the width, is a share of the size of the median token's output."""
    # The median: the first token of a text is often answered with a far longer vector.
    outputs = H @ weight.double().T
    return _SHARE * float(outputs.pow(2).mean(1).sqrt().median()) / H.shape[1]
