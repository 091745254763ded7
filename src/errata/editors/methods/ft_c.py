"""FT-C: fine-tune one projection, each weight kept within ±ε of where it was (also known as FT-L)."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.finetuning import FineTuningSettings, Step, fine_tune
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Update
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["FTC", "FTCSettings"]


class FTCSettings(FineTuningSettings):
    """Settings of FT-C. Defaults are those of kmeng01/rome for GPT2-XL unless said otherwise."""

    unpublished: ClassVar[Mapping[str, Any]] = {**FineTuningSettings.unpublished, "epsilon": "auto"}

    layer: int = Field(ge=0)
    """The fine-tuned layer. The first paper names ROME's layer; its files hold 0."""
    epsilon: Step = 5e-4
    """ε, how far a weight may move (`norm_constraint`). GPT2-XL 5e-4, GPT-J 5e-5. "auto", the default where a
    model has no published settings: as far as one step of an "auto" `lr`, as GPT2-XL's is one of its steps."""
    bound: Literal["edit", "unedited"] = "edit"
    """From where ε is measured: from the weights before this edit, as the published code does, so that a sequence of
    edits wanders on; or from the unedited model's W₀, as the paper has it."""
    targets: Literal["last-position", "teacher-forced"] = "last-position"
    """Where target tokens are scored. The published code scores all of them against the prompt's last position, a bag
    of tokens for targets of several; "teacher-forced" scores each at its own position: the paper's −log P(o*|p)."""
    bias: bool = True
    """Train the projection's bias too, where it has one, as the published code does by the pattern with which it picks
    parameters. Neither paper mentions it."""


class FTC(Editor):
    """Minimise −log P(o*|p) over one projection by Adam, with ‖W − W₀‖_∞ ≤ ε (2012.00363; 2401.07453 §A.6.4).

    By default it does what kmeng01/rome does. The paper's behaviour: `targets="teacher-forced"`, `bound="unedited"`,
    `bias=False`.
    """

    name: ClassVar[str] = "ft-c"
    paper: ClassVar[str] = "2012.00363"
    Settings: ClassVar[type[FTCSettings]] = FTCSettings

    def __init__(self, settings: FTCSettings) -> None:
        self.settings = settings
        self._unedited: dict[str, Tensor] | None = None

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Keep W₀, where ε is measured from it."""
        if self.settings.bound == "unedited":
            self._unedited = {path: model.parameter(path).detach().clone() for path in self._paths(model)}

    def _paths(self, model: EditableModel) -> list[str]:
        path = model.mlp_out(self.settings.layer)
        return [path, f"{path}.bias"] if self.settings.bias and model.has_bias(path) else [path]

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return the dense difference that the constrained steps have made."""
        s = self.settings
        return fine_tune(
            model,
            self._paths(model),
            batch,
            s,
            forced=s.targets == "teacher-forced",
            bound=s.epsilon,
            origin=self._unedited,
        )
