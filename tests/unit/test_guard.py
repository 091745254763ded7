"""The guard's verdicts, and what a trajectory makes of them."""

import math
from random import Random
from statistics import median

import pytest
import torch

from errata.editors.base import Editor
from errata.editors.update import LowRank, Update
from errata.edits import Fact
from errata.models import EditableModel
from errata.trajectory import DiskJournal, Guard, Trajectory
from errata.trajectory.guard import Sizes
from tiny import tiny_facts, tiny_model

INF, NAN = math.inf, math.nan
USUAL = [0.01] * 10
HUGE_AT = "4"
LAYER = 1
FACTS = tiny_facts(8)


@pytest.mark.parametrize(
    ("relative", "earlier", "status"),
    [
        # A usual size, among enough earlier ones; the bound itself is still allowed.
        ([0.01], USUAL, "ok"),
        ([0.1], USUAL, "ok"),
        ([], USUAL, "ok"),
        ([0.0], [0.0] * 10, "ok"),
        # A spike once there is a median, in any module, however the others look.
        ([0.1001], USUAL, "disabling"),
        ([0.001, 0.2, 0.001], USUAL, "disabling"),
        ([0.2], [*USUAL, 5.0, 5.0], "disabling"),
        ([0.2], [0.03] * 10, "ok"),
        # Too few for a median: only what dwarfs the weights themselves.
        ([0.1001], USUAL[:9], "ok"),
        ([10.0], USUAL[:9], "ok"),
        ([10.1], USUAL[:9], "disabling"),
        ([10.1], [], "disabling"),
        ([9.9], [], "ok"),
        # Nothing that is not a number passes, before the warm-up or after.
        ([NAN], USUAL, "nonfinite"),
        ([INF], USUAL, "nonfinite"),
        ([-INF], USUAL, "nonfinite"),
        ([NAN], [], "nonfinite"),
        ([0.01, NAN], USUAL, "nonfinite"),
        ([NAN, 0.01], USUAL, "nonfinite"),
        ([50.0, INF], [], "nonfinite"),
        # Broken predecessors are no measure, and do not count towards the warm-up.
        ([0.2], [NAN, INF, *USUAL], "disabling"),
        ([0.01], [NAN, INF, *USUAL], "ok"),
        ([0.2], [NAN, INF, *USUAL[:9]], "ok"),
        ([10.1], [NAN] * 20, "disabling"),
    ],
)
def test_verdicts(relative: list[float], earlier: list[float], status: str) -> None:
    verdict = Guard().judge({f"m{i}": r for i, r in enumerate(relative)}, Sizes(earlier))
    assert verdict.status == status
    assert bool(verdict.reason) is (status != "ok")


def test_spike_and_warm_up_are_settings() -> None:
    guard = Guard(spike=3.0, warm_up=2)
    assert guard.judge({"m": 0.031}, Sizes([0.01, 0.01])).status == "disabling"
    assert guard.judge({"m": 0.029}, Sizes([0.01, 0.01])).status == "ok"
    assert guard.judge({"m": 2.9}, Sizes([0.01])).status == "ok"
    assert guard.judge({"m": 3.1}, Sizes([0.01])).status == "disabling"


def test_the_reason_gives_the_sizes() -> None:
    reason = Guard().judge({"m": 4.0}, Sizes(USUAL)).reason
    assert reason == "‖ΔW‖/‖W₀‖ is 4, 400 times the usual 0.01"
    first = Guard().judge({"m": 28.1}, Sizes([])).reason
    assert first == "‖ΔW‖/‖W₀‖ is 28.1, over 10, the bound until 10 updates tell what is usual"


class Spiky(Editor):
    """Propose a rank-one change of 1 % of ‖W₀‖, set by the fact and by how much is remembered; one of them differs."""

    name = "spiky"

    def __init__(self, at: str, factor: float) -> None:
        self._at, self._factor = at, factor
        self.remembered: list[str] = []

    def propose(self, model: EditableModel, batch) -> Update:
        path = model.mlp_out(LAYER)
        out, width = model.weight(path).shape
        generator = torch.Generator().manual_seed(100 * int(batch[0].id) + len(self.remembered))
        left = torch.randn(out, 1, generator=generator, dtype=torch.float64)
        right = torch.randn(1, width, generator=generator, dtype=torch.float64)
        size = self._factor if self._at in {f.id for f in batch} else 1.0
        scale = 0.01 * size * float(tiny_model("gpt2", model.dtype).weight(path).norm()) / left.norm() / right.norm()
        return Update({path: LowRank(scale * left, right)}, memory={"id": torch.tensor([float(batch[0].id)])})

    def remember(self, update: Update) -> None:
        self.remembered.append(str(int(update.memory["id"][0])))


def made(policy: str, factor: float, journal: DiskJournal | None = None, warm_up: int = 3) -> Trajectory:
    model = tiny_model("gpt2", torch.float64)
    return Trajectory(model, Spiky(HUGE_AT, factor), guard=Guard(policy=policy, warm_up=warm_up), journal=journal)


def weight(trajectory: Trajectory) -> torch.Tensor:
    return trajectory.model.weight(trajectory.model.mlp_out(LAYER))


def advance(trajectory: Trajectory, facts: list[Fact]) -> list[str]:
    return [trajectory.advance([fact])[0].status for fact in facts]


@pytest.mark.parametrize(("factor", "status"), [(500.0, "disabling"), (NAN, "nonfinite"), (INF, "nonfinite")])
@pytest.mark.parametrize("policy", ["continue", "stop"])
def test_under_continue_and_stop_the_fifth_edit_is_applied_and_named(factor, status, policy, tmp_path) -> None:
    trajectory = made(policy, factor, DiskJournal(tmp_path))
    assert advance(trajectory, FACTS[:4]) == ["applied"] * 4
    before = weight(trajectory).clone()
    (entry,) = trajectory.advance([FACTS[4]])
    assert entry.status == status
    assert entry.applied
    assert entry.verdict
    assert entry.edit == entry.step == trajectory.step == 5
    assert not torch.equal(weight(trajectory), before)
    assert trajectory.editor.remembered == ["0", "1", "2", "3", "4"]
    assert trajectory.journal.active_steps() == [1, 2, 3, 4, 5]
    if status == "disabling":
        assert entry.relative == pytest.approx(5.0)
        # A spike does not raise the median under which those after it are judged.
        assert advance(trajectory, FACTS[5:]) == ["applied"] * 3
    again = DiskJournal(tmp_path)
    assert again.entries[4].status == status
    assert sorted(again.update(5).changes) == [trajectory.model.mlp_out(LAYER)]


@pytest.mark.parametrize(("factor", "status"), [(500.0, "is 5, 500 times"), (NAN, "NaN or infinity"), (INF, "NaN")])
def test_under_rollback_it_is_as_if_the_fifth_edit_had_never_been(factor, status, tmp_path) -> None:
    trajectory = made("rollback", factor, DiskJournal(tmp_path))
    advance(trajectory, FACTS[:4])
    before = weight(trajectory).clone()
    (entry,) = trajectory.advance([FACTS[4]])
    assert entry.status == "rolled-back"
    assert not entry.applied
    assert status in entry.verdict
    assert trajectory.step == 5
    assert torch.equal(weight(trajectory), before)
    assert trajectory.editor.remembered == ["0", "1", "2", "3"]
    assert advance(trajectory, FACTS[5:]) == ["applied"] * 3

    without = made("rollback", factor)
    assert advance(without, [*FACTS[:4], *FACTS[5:]]) == ["applied"] * 7
    assert torch.equal(weight(trajectory), weight(without))
    assert trajectory.editor.remembered == without.editor.remembered

    assert trajectory.journal.active_steps() == [1, 2, 3, 4, 6, 7, 8]
    assert not (tmp_path / "updates" / "step-000005.safetensors").exists()
    reopened = made("rollback", factor, DiskJournal(tmp_path))
    assert reopened.step == 8
    assert torch.equal(weight(reopened), weight(without))
    with trajectory.at(5):
        assert torch.equal(weight(trajectory), before)


def test_before_the_warm_up_the_same_update_passes() -> None:
    trajectory = made("rollback", 500.0, warm_up=5)
    assert advance(trajectory, FACTS) == ["applied"] * 8
    assert advance(made("rollback", 1001.0, warm_up=5), FACTS[:5])[-1] == "rolled-back"


def test_what_was_rolled_back_or_undone_is_no_measure_for_the_next() -> None:
    trajectory = made("rollback", 500.0, warm_up=4)
    statuses = advance(trajectory, [*FACTS[:4], FACTS[4]])
    assert statuses == ["applied"] * 4 + ["rolled-back"]
    trajectory.undo(last=1)
    # Three are left: too few for a median of four, so the same spike now passes.
    assert trajectory.advance([FACTS[4]])[0].status == "applied"


def test_a_batch_counts_once_in_the_median_and_shares_its_verdict() -> None:
    trajectory = made("rollback", 500.0, warm_up=3)
    trajectory.advance(FACTS[:2])
    trajectory.advance(FACTS[2:4])
    entries = trajectory.advance(FACTS[4:6])
    assert [e.status for e in entries] == ["applied"] * 2, "two updates are known, three are needed"
    other = made("rollback", 500.0, warm_up=2)
    other.advance(FACTS[:2])
    other.advance(FACTS[2:4])
    entries = other.advance(FACTS[4:6])
    assert [(e.edit, e.step, e.status) for e in entries] == [(5, 6, "rolled-back"), (6, 6, "rolled-back")]
    assert other.editor.remembered == ["0", "2"]


def test_a_median_kept_up_to_date_is_the_median_of_all() -> None:
    generator = Random(0)
    sizes, given = Sizes([3.0, NAN, 1.0]), [3.0, 1.0]
    for n in range(40):
        size = generator.choice([INF, generator.random(), 2.0])
        sizes.add(size)
        given += [size] if math.isfinite(size) else []
        assert (len(sizes), sizes.median()) == (len(given), median(given)), n
