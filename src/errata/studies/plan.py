"""What a recipe would do and cost, without doing it."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from errata.editors.base import Editor
from errata.editors.methods.lyaplock import LyapLock
from errata.editors.text_source import TextSource
from errata.edits import EditStream
from errata.edits.datasets import load_stream
from errata.errors import EditDataError
from errata.models import outline
from errata.models.loading import device_of
from errata.studies.duration import guard_operations, lasting, preparing
from errata.studies.memory import MemoryItem, available_on, memory_plan, peak, shown
from errata.studies.recipe import Recipe
from errata.studies.session import open_session

__all__ = ["Plan", "plan"]

_TOKENS = 16  # of a prompt with its prefix, about
_SUFFIX = 5  # of them from the subject's last on: what is run again at every step of optimising v*
_LOSSES = 2  # forward passes' worth of work in one backward pass
_TRIALS = 7  # of the machine's speed; their median, since other work may get in between


@dataclass(frozen=True)
class Plan:
    """A recipe with everything resolved, and rough figures of its cost.

    Args:
        config: the resolved recipe.
        out: where the run would be written.
        parameters: of the model.
        memory: what the run would hold, item by item.
        memory_gb: what it comes to at most.
        available_gb: memory of the device, None where it cannot be told.
        seconds_per_edit: from the arithmetic of optimising v*, what the guard reads, and this machine's speed at matrix
            products.
        edits: how many.
        disk_gb: updates on disk at most: whole matrices for methods that fine-tune, for LyapLock and regularisers.
        remark: what could not be looked at; empty for nothing.
        preparing: seconds of each part of what comes before the first edit; statistics that are cached take none.
    """

    config: dict[str, Any]
    out: str
    parameters: int
    memory: Sequence[MemoryItem]
    memory_gb: float
    available_gb: float | None
    seconds_per_edit: float
    edits: int
    disk_gb: float
    remark: str = ""
    preparing: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        available = None if self.available_gb is None else round(self.available_gb * 1e9)
        return (
            f"{yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)}\n"
            f"would write    {self.out}\n"
            f"model          {self.parameters / 1e6:,.1f} M parameters\n"
            f"memory\n{shown(self.memory, available)}\n"
            f"disk           about {self._disk} of updates\n"
            f"editing        {self._editing}" + (f"\n{self.remark}" if self.remark else "")
        )

    def brief(self, source: str) -> str:
        """Return what a correction would do and cost, in a few lines.

        Args:
            source: the file of its facts.
        """
        method, guard = self.config["method"], self.config["guard"]
        layers = method.get("layers") or [x for x in [method.get("layer")] if x is not None]
        where = f", layers {', '.join(map(str, layers))}" if layers else ""
        judged = f"on: a canary of {guard['lines']} lines, KL up to {guard['budget']:g}" if guard["enabled"] else "off"
        has = "what the device has cannot be told" if self.available_gb is None else f"of {self.available_gb:.1f} GB"
        lines = {
            "facts": f"{self.edits} of {source}, {self.config['edits']['batch_size']} in one update",
            "model": f"{self.config['model']['name']}, {self.parameters / 1e6:,.1f} M parameters",
            "method": f"{method['name']}{where}",
            "guard": judged,
            "time": self._editing,
            "memory": f"at most {self.memory_gb:.1f} GB, {has}",
            "disk": f"about {self._disk} of updates in {self.out}",
        }
        said = "\n".join(f"{name:<9}{line}" for name, line in lines.items())
        return f"{said}\n{self.remark}".rstrip() + "\nNothing was edited. Every setting: --dry-run --json"

    @property
    def _editing(self) -> str:
        each = self.seconds_per_edit
        return (
            f"about {each:.2g} s an edit, {lasting(self.edits * each)} for {self.edits} edits; before, up to "
            f"{lasting(sum(self.preparing.values()))} of preparing ({self._parts}); probes come on top"
        )

    @property
    def _parts(self) -> str:
        cached = {"statistics": "statistics, unless they are cached,"}
        return ", ".join(f"{cached.get(part, part)} {lasting(s)}" for part, s in self.preparing.items())

    @property
    def _disk(self) -> str:
        return f"{self.disk_gb:.1f} GB" if self.disk_gb >= 1 else f"{self.disk_gb * 1e3:.2f} MB"


def plan(recipe: Recipe, out: Path, stream: EditStream | None = None, until: int | None = None) -> Plan:
    """Resolve a recipe and estimate its cost; no weight is read, nothing is edited or written.

    Args:
        recipe: the recipe.
        out: where it would be run.
        stream: used instead of reading the recipe's data set.
        until: how many edits are to be made now; all of them when None.
    """
    device = device_of(recipe.model.device)
    model = outline(recipe.model.name, dtype=recipe.model.dtype)
    stream, remark = (stream, "") if stream is not None else _facts(recipe)
    session = open_session(recipe, model=model, stream=stream)
    settings = session.editor.settings
    parameters = sum(p.numel() for p in model.model.parameters())
    layers = list(getattr(settings, "layers", ())) or ([settings.layer] if hasattr(settings, "layer") else [])
    shape = model.weight(model.mlp_out(layers[0] if layers else 0)).shape
    contexts = 1 + sum(n for _, n in settings.contexts.lengths) if hasattr(settings, "contexts") else 1
    steps = settings.value.steps if hasattr(settings, "value") else getattr(settings, "steps", 0)
    again = _TOKENS * steps * (1.0 + _LOSSES)
    if hasattr(settings, "value") and layers:
        above = (model.n_layers - 1 - max(layers)) / model.n_layers
        again = _TOKENS + _SUFFIX * above * steps * (1 + _LOSSES)
    flops = (
        2.0 * parameters * contexts * again + guard_operations(model, session.recipe.guard) / recipe.edits.batch_size
    )
    speed = _flops_per_second(device)
    beside = type(session.editor).attach is not Editor.attach
    # A low-rank update, or a codebook's entry: a key and a value for each edit. What regularisers leave may be whole.
    whole = isinstance(session.editor, LyapLock) or bool(getattr(settings, "regularise", ()))
    factors = beside or (hasattr(settings, "value") and not whole)
    n, size = len(stream) or recipe.edits.n or 0, recipe.edits.batch_size
    n = n if until is None else min(n, -(-until // size) * size)  # a batch is made whole
    memory = memory_plan(model, session.editor, size, recipe.model.device)
    available = available_on(device)
    text = getattr(settings, "statistics", None)
    if isinstance(text, TextSource) and getattr(settings, "use_covariance", True):
        remark = f"{remark}\nstatistics come from {text.check()}".strip()
    if device.type == "cuda" and not torch.cuda.is_available():
        by = f"no {device.type} device is here: the seconds are this processor's. An edit takes {flops:.1e} operations."
        remark = f"{remark}\n{by}".strip()
    return Plan(
        config=session.recipe.model_dump(mode="json"),
        out=str(out),
        parameters=parameters,
        memory=memory,
        memory_gb=peak(memory) / 1e9,
        available_gb=None if available is None else available / 1e9,
        seconds_per_edit=flops / speed,
        preparing=preparing(model, settings, speed),
        edits=n,
        remark=remark,
        disk_gb=4 * len(layers) * (n * sum(shape) if factors else -(-n // size) * shape[0] * shape[1]) / 1e9,
    )


def _facts(recipe: Recipe) -> tuple[EditStream, str]:
    """Read the facts; where the hub would have to give them and does not, their number is all that is needed."""
    try:
        return load_stream(recipe.edits, recipe.model.name), ""
    except EditDataError as e:
        if recipe.edits.path is not None or recipe.edits.n is None:
            raise
        return EditStream(()), f"not looked at: the facts. {e}"


def _flops_per_second(device: torch.device) -> float:
    """Time a matrix product of moderate size; on a CPU where the device is not in this machine."""
    here = device if device.type != "cuda" or torch.cuda.is_available() else torch.device("cpu")
    a = torch.ones(512, 512, device=here)
    float((a @ a)[0, 0])
    taken = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for the device
        taken.append(time.perf_counter() - started)
    return 2 * 512**3 / max(statistics.median(taken), 1e-9)
