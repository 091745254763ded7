"""The yardstick: the same equations as published code computes them, without anything that makes them quick.

Values are optimised one fact at a time; every step runs the whole model on whole prompts and makes logits at every
position. The keys of a batch, under all prefixes, are read from one forward pass through the whole model, once a
layer; so is what of its values is reached. Every layer of every edit solves a dense system, in float64 but for
AlphaEdit, whose code stays in the model's precision and solves for the whole update. Updates are written between
layers and taken back at the end.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from errata.edits import Fact
from errata.models import EditableModel
from errata.models.hooks import hidden_of, with_hidden

__all__ = ["PlainMEMIT", "PlainROME", "dense_solve", "place"]


def place(model: EditableModel, fact: Fact, template: str = "{}", prompt: str | None = None) -> tuple[list[int], int]:
    """Encode a prompt in a context and find the subject's last token."""
    before, after = template.replace("{}", prompt or fact.prompt, 1).split("{}", 1)
    return model.subject_last(before, fact.subject, after)


def dense_solve(A: Tensor, b: Tensor) -> Tensor:
    """Return A⁻¹b by an LU decomposition of a general matrix."""
    return torch.linalg.solve(A.double(), b.double())


class _Plain:
    """What the two methods share: values and activations.

    Args:
        model: the model.
        settings: the method's.
        templates: its context templates.
    """

    def __init__(self, model: EditableModel, settings: Any, templates: Sequence[str]) -> None:
        self.model = model
        self.settings = settings
        self.templates = list(templates)
        self.seconds: dict[str, float] = {}
        """Seconds spent so far on values, on keys and residuals, and on solving."""
        self.evaluations = 0
        """Of the loss, so far."""

    def forget(self) -> None:
        """Begin anew: no seconds, no evaluations, no past."""
        self.seconds, self.evaluations = {}, 0

    @contextmanager
    def _counted(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def value(self, fact: Fact, layer: int, path: str) -> Tensor:
        """Optimise the output of the module at `path` at the subject (2202.05262, eq. 4; 2210.07229, eq. 16)."""
        with self._counted("values"):
            return self._value(fact, layer, path)

    def _value(self, fact: Fact, layer: int, path: str) -> Tensor:
        model, s = self.model, self.settings.value
        target = model.encode_target(fact.target_new)
        placed = [place(model, fact, t) for t in ["{}", *(t for t in self.templates if t != "{}")]]
        essence = place(model, fact, prompt="{} is a")
        tokens = model.pad([*(ids + target[:-1] for ids, _ in placed), essence[0]])
        rows = torch.arange(len(placed) + 1)
        at = torch.tensor([p for _, p in [*placed, essence]])
        initial: Tensor | None = None
        delta = torch.zeros(model.hidden_size, dtype=model.dtype, requires_grad=True)

        def add(_module: Any, _args: Any, output: Any) -> Any:
            nonlocal initial
            hidden = hidden_of(output).clone()
            if initial is None:
                initial = hidden[0, at[0]].detach().clone()
            hidden[rows, at] += delta
            return with_hidden(output, hidden)

        handle = model.module(path).register_forward_hook(add)
        optimiser = torch.optim.Adam([delta], lr=s.lr, eps=s.adam_epsilon)
        before: Tensor | None = None
        try:
            for step in range(s.steps):
                logits = model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits
                log_probs = torch.log_softmax(logits, dim=2)
                assert initial is not None
                self.evaluations += 1
                nll = torch.stack(
                    [
                        -torch.stack([log_probs[row, len(ids) - 1 + j, t] for j, t in enumerate(target)]).mean()
                        for row, (ids, _) in enumerate(placed)
                    ]
                ).mean()
                told = log_probs[-1, essence[1]]
                before = told.detach().clone() if before is None else before
                kl = torch.nn.functional.kl_div(before, told, log_target=True, reduction="sum")
                loss = nll + s.kl_factor * kl + s.weight_decay * delta.norm() / initial.norm() ** 2
                if loss.item() < s.loss_stop or step == s.steps - 1:
                    break
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                limit = s.clamp_norm_factor * initial.norm()
                with torch.no_grad():
                    if delta.norm() > limit:
                        delta *= limit / delta.norm()
        finally:
            handle.remove()
        assert initial is not None
        return (initial + delta).detach()

    @torch.no_grad()
    def read(self, path: str, batch: Sequence[Fact], templates: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return input and output of a module at each subject under every template, after one whole forward pass."""
        placed = [place(self.model, fact, t) for fact in batch for t in templates]
        tokens = self.model.pad([ids for ids, _ in placed])
        seen: list[Tensor] = []

        def record(_module: Any, args: tuple[Any, ...], output: Any) -> None:
            seen.extend((args[0], hidden_of(output)))

        handle = self.model.module(path).register_forward_hook(record)
        self.model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        handle.remove()
        rows, at = torch.arange(len(placed)), torch.tensor([p for _, p in placed])
        return seen[0][rows, at], seen[1][rows, at]


class PlainROME(_Plain):
    """ROME and, with one key throughout, r-ROME.

    Args:
        model: the model.
        settings: the method's.
        templates: its context templates, the bare one among them.
        C: the covariance of the edited layer, with its ridge.
        one_key: whether the averaged key stands in the denominator too (2403.07175).
    """

    def __init__(self, model: EditableModel, settings: Any, templates: Sequence[str], C: Tensor, one_key: bool) -> None:
        super().__init__(model, settings, templates)
        self._inverse = torch.linalg.inv(C.double())
        self._one_key = one_key

    def propose(self, batch: Sequence[Fact]) -> dict[str, Tensor]:
        """Return ΔW (d_out, d_in) of the only fact."""
        (fact,) = batch
        layer = self.settings.layer
        path = self.model.mlp_out(layer)
        with self._counted("keys"):
            keys, outputs = self.read(path, batch, self.templates)
            key, output = keys.mean(0), outputs.mean(0)
            divisor = key
            if not self._one_key:
                (divisor,), (output,) = self.read(path, batch, ["{}"])
        u = self._inverse @ key.double()
        v = self.value(fact, layer, f"{self.model.block_path(layer)}.{self.model.family.mlp}")
        left = (v.double() - output.double()) / (divisor.double() @ u)
        return {path: torch.outer(left, u)}


class PlainMEMIT(_Plain):
    """MEMIT, EMMET and AlphaEdit: the same passes around three equations.

    Args:
        model: the model.
        settings: the method's.
        templates: its context templates, without the bare one.
        method: "memit", "emmet" or "alphaedit".
        matrices: of every layer's module: λC in float64, or for AlphaEdit the projector P.
    """

    def __init__(
        self,
        model: EditableModel,
        settings: Any,
        templates: Sequence[str],
        method: str,
        matrices: Mapping[str, Tensor],
    ) -> None:
        super().__init__(model, settings, templates)
        self._method = method
        as_published = model.dtype if method == "alphaedit" else torch.float64
        self._matrices = {path: matrix.to(as_published) for path, matrix in matrices.items()}
        self.forget()

    def forget(self) -> None:
        """Begin anew, with no past keys."""
        super().forget()
        self._past = {path: torch.zeros_like(matrix) for path, matrix in self._matrices.items()}

    def propose(self, batch: Sequence[Fact]) -> dict[str, Tensor]:
        """Return ΔW (d_out, d_in) of every layer."""
        model, layers = self.model, self.settings.layers
        top = model.block_path(layers[-1])
        z = [self.value(fact, layers[-1], top) for fact in batch]
        kept = {path: model.weight(path).clone() for path in map(model.mlp_out, layers)}
        changes: dict[str, Tensor] = {}
        try:
            for i, path in enumerate(kept):
                with self._counted("keys"):
                    K = self._keys(path, batch)
                    _, reached = self.read(top, batch, ["{}"])
                R = (torch.stack(z) - reached).T / (len(layers) - i)
                with self._counted("solve"):
                    changes[path] = self._change(path, K, R)
                model.write(path, kept[path] + changes[path].to(kept[path]))
                if self._method == "alphaedit":
                    self._past[path] += K @ K.T
        finally:
            for path, weight in kept.items():
                model.write(path, weight)
        return changes

    def _keys(self, path: str, batch: Sequence[Fact]) -> Tensor:
        keys, _ = self.read(path, batch, ["{}", *self.templates])
        keys = keys.reshape(len(batch), -1, keys.shape[1])
        return ((keys[:, 0] + keys[:, 1:].mean(1)) / 2).T

    def _change(self, path: str, K: Tensor, R: Tensor) -> Tensor:
        A = self._matrices[path]
        if self._method == "alphaedit":
            identity = self.settings.identity_weight * torch.eye(A.shape[0], dtype=A.dtype)
            return torch.linalg.solve(A @ (K @ K.T + self._past[path]) + identity, A @ K @ R.T).T
        K, R = K.double(), R.double()
        if self._method == "memit":
            return R @ dense_solve(A + K @ K.T, K).T
        X = dense_solve(A, K)
        D = K.T @ X
        if K.shape[1] > 1:
            D = D + self.settings.alpha * torch.eye(K.shape[1], dtype=K.dtype)
        return R @ torch.linalg.solve(D, X.T)
