"""Phases and collapse of single curves: synthetic ones with known breaks, and the first paper's own measurements."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import ruptures
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from errata.analysis.breaks import line_errors
from errata.analysis.phases import Phases, find_phases
from errata.analysis.tables import read_curve
from errata.cli.phases import phases
from errata.errors import AnalysisError

Array = NDArray[np.float64]
T = np.arange(200.0)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "gupta2024_runs"


def find(values: Array, steps: Array = T, **options: object) -> Phases:
    return find_phases(steps, values, rng=np.random.default_rng(0), **options)  # type: ignore[arg-type]


def noise(sigma: float = 0.03, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, sigma, len(T))


DRIFT_THEN_JUMP = 0.95 - 0.001 * T - 0.6 * (T >= 140)


def test_a_jump_is_found_exactly() -> None:
    found = find(DRIFT_THEN_JUMP)
    assert (found.collapse_step, found.interval) == (140, (140, 140))
    assert found.gradual_start is not None
    assert found.gradual_start < 40
    assert found.before > 0.8
    assert found.after < 0.22


@pytest.mark.parametrize("seed", range(10))
def test_a_jump_is_found_under_noise(seed: int) -> None:
    found = find(DRIFT_THEN_JUMP + noise(0.05, seed))
    assert found.collapse_step == pytest.approx(140, abs=1)
    assert found.interval is not None
    assert found.interval[0] <= 140 <= found.interval[1]
    assert found.interval[1] - found.interval[0] < 10


@pytest.mark.parametrize(
    "values",
    [
        np.full(200, 0.9),
        0.9 + noise(),
        0.95 - 0.003 * T + noise(),
        1 / (1 + np.exp((T - 100) / 20)),
        np.exp(-T / 60) + noise(0.01),
        0.9 + np.cumsum(noise(0.005)),
    ],
    ids=["constant", "noisy constant", "straight decline", "wide S", "decay", "random walk"],
)
def test_smooth_curves_do_not_collapse(values: Array) -> None:
    found = find(values)
    assert found.collapse_step is None
    assert found.interval is None


def test_false_alarms_are_rare_in_zeros_and_ones() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(find((rng.random(200) < 0.85) * 1.0, near=20, scale=1.0).collapse_step is not None for _ in range(100))
    assert alarms <= 5


def test_a_constant_curve_has_no_gradual_phase_and_a_straight_decline_has_one() -> None:
    assert find(0.9 + noise()).gradual_start is None
    start = find(np.where(T < 60, 0.9, 0.9 - 0.004 * (T - 60)) + noise(0.01)).gradual_start
    assert start == pytest.approx(65, abs=10)


@pytest.mark.parametrize("place", [3, 100, 197])
def test_a_jump_may_be_at_either_end(place: int) -> None:
    assert find(0.9 - 0.8 * (place <= T) + noise(0.02)).collapse_step == place


@pytest.mark.parametrize("directions", [("auto", "auto"), ("falling", "rising")])
@pytest.mark.parametrize("width", [5, 20])
def test_a_dip_is_no_collapse(width: int, directions: tuple[str, str]) -> None:
    values = np.where((T[:100] >= 50) & (T[:100] < 50 + width), 0.0, 1.0)
    assert find(values, T[:100], direction=directions[0]).collapse_step is None
    assert find(1 - values, T[:100], direction=directions[1]).collapse_step is None


def test_a_dip_before_a_collapse_does_not_hide_it() -> None:
    values = np.where((T >= 150) | ((T >= 50) & (T < 55)), 0.0, 1.0)
    assert find(values).collapse_step == 150


def test_a_cliff_does_not_begin_before_itself() -> None:
    assert find(np.where(T >= 199, 0.0, 0.9)).gradual_start is None
    assert find(np.where(T >= 150, 0.75, 0.9)).gradual_start == 150


def test_rising_is_worse_when_said_or_seen() -> None:
    forgotten = 0.001 * T + 0.7 * (T > 80) + noise()
    assert find(forgotten).collapse_step == 81
    assert find(forgotten).direction == "rising"
    assert find(forgotten, direction="rising").collapse_step == 81
    assert find(forgotten, direction="falling").collapse_step is None


def test_a_curve_that_turns_nan_collapses_there() -> None:
    found = find(np.where(T >= 150, np.nan, 0.9 - 0.001 * T))
    assert (found.collapse_step, found.interval) == (150, (150, 150))
    assert math.isnan(found.after)
    assert found.gradual_start is not None
    earlier = find(np.where(T >= 180, np.nan, DRIFT_THEN_JUMP))
    assert earlier.collapse_step == 140
    assert find(np.where(T == 50, np.nan, 0.9)).collapse_step is None
    assert find(np.full(200, np.nan)).collapse_step == 0


def test_a_coarse_curve_says_how_coarse() -> None:
    found = find(DRIFT_THEN_JUMP[::20], T[::20])
    assert (found.collapse_step, found.interval) == (140, (121, 140))


def test_short_curves_say_so() -> None:
    assert "only 5 points" in find(np.array([1, 1, 1, 0, 0.0]), np.arange(5.0)).reason
    with pytest.raises(AnalysisError, match="0 steps"):
        find(np.array([]), np.array([]))


def test_order_and_repetition_of_steps_do_not_matter() -> None:
    shuffle = np.random.default_rng(3).permutation(400)
    doubled = np.concatenate([DRIFT_THEN_JUMP + 0.01, DRIFT_THEN_JUMP - 0.01])
    found = find(doubled[shuffle], np.concatenate([T, T])[shuffle])
    assert found.collapse_step == 140


def test_the_fit_agrees_with_ruptures() -> None:
    values = DRIFT_THEN_JUMP + noise()
    signal = np.column_stack([values, T, np.ones_like(T)])
    search = ruptures.Dynp(model="linear", min_size=3, jump=1).fit(signal)
    place = search.predict(n_bkps=1)[0]
    errors = line_errors(T, values)[0]
    assert int(errors[3:-3].argmin()) + 3 == place
    assert errors[place] == pytest.approx(search.cost.sum_of_costs([place, 200]), rel=1e-6)


def test_errors_are_those_of_least_squares_in_any_scale() -> None:
    x, y = 1e6 + 50 * T, 1e-7 * (DRIFT_THEN_JUMP + noise())
    for place in (5, 90, 195):
        direct = sum(
            float(((y[s] - np.polyval(np.polyfit(x[s] - 1e6, y[s], 1), x[s] - 1e6)) ** 2).sum())
            for s in (slice(None, place), slice(place, None))
        )
        assert line_errors(x, y)[0][place] == pytest.approx(direct, rel=1e-6)


@pytest.fixture(scope="module")
def published() -> list[dict[str, Array]]:
    """SST-2 along sequential MEMIT on GPT2-XL, four samples, every 50 edits (2401.07453's repository)."""
    if not SHARED.exists():
        pytest.skip(f"the first paper's measurements are not at {SHARED}")
    runs = []
    for file in sorted(SHARED.glob("sample_*.json")):
        content = json.loads(file.read_text())
        points = next(v for k, v in content.items() if k != "original_model")
        every = [content["original_model"], *points]
        runs.append(
            {
                "step": np.array([0.0, *(p["element_num"] + 1 for p in points)]),
                "accuracy": np.array([p["correct"] / p["total"] for p in every]),
                "invalid": np.array([p["invalid"] / p["total"] for p in every]),
            }
        )
    assert len(runs) == 4
    return runs


def test_published_runs_decline_gradually_before_they_are_visibly_worse(published: list[dict[str, Array]]) -> None:
    starts = []
    for run in published:
        found = find(run["accuracy"], run["step"], scale=1.0)
        first_below_80 = run["step"][run["accuracy"] < 0.8][0]
        assert found.gradual_start is not None
        assert 50 <= found.gradual_start <= first_below_80
        starts.append(found.gradual_start)
    assert 100 <= np.median(starts) <= 800


def test_published_runs_collapse_where_most_answers_turn_invalid(published: list[dict[str, Array]]) -> None:
    misses, steps = [], []
    for run in published:
        found = find(run["invalid"], run["step"], scale=1.0)
        assert found.collapse_step is not None
        assert found.interval is not None
        assert found.direction == "rising"
        first = run["step"][run["invalid"] > 0.5][0]
        # One of the four turns half invalid once, recovers, and dies 950 edits later.
        assert first - 50 <= found.collapse_step <= first + 950
        misses.append(abs(found.collapse_step - first))
        steps.append(found.collapse_step)
    assert np.median(misses) <= 200
    assert min(steps) >= 2350
    assert max(steps) <= 4350


def test_published_accuracy_collapses_after_its_gradual_phase_and_at_its_death_at_the_latest(
    published: list[dict[str, Array]],
) -> None:
    for run in published:
        found = find(run["accuracy"], run["step"], scale=1.0)
        assert found.collapse_step is not None
        assert found.gradual_start is not None
        below_60 = run["step"][run["accuracy"] < 0.6][0]
        dead = run["step"][np.flatnonzero(run["accuracy"] > 0.05)[-1] + 1]
        assert found.gradual_start < below_60 < found.collapse_step <= dead


def test_command_reads_a_csv(tmp_path: Path) -> None:
    file = tmp_path / "curve.csv"
    lines = [f"{t:.0f},{'nan' if t > 190 else '' if t > 180 else v}" for t, v in zip(T, DRIFT_THEN_JUMP, strict=True)]
    file.write_text("edits,f1\n" + "\n".join(lines) + "\n")
    app = typer.Typer()
    app.command()(phases)
    done = CliRunner().invoke(app, [str(file), "--x", "edits", "--y", "f1", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["collapse_step"], found["interval"]) == (140, [140, 140])
    assert 0 < found["gradual_start"] < 140
    assert "collapse at 140" in CliRunner().invoke(app, [str(file), "--x", "edits", "--y", "f1"]).stdout


def test_command_says_null_when_nothing_collapses(tmp_path: Path) -> None:
    file = tmp_path / "curve.csv"
    file.write_text("step,value\n" + "".join(f"{t},0.5\n" for t in range(50)))
    app = typer.Typer()
    app.command()(phases)
    found = json.loads(CliRunner().invoke(app, [str(file), "--json"]).stdout)
    assert found["collapse_step"] is None
    assert found["interval"] is None
    assert found["gradual_start"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,f1\n1,2\n", "no column 'value'; it has step, f1"),
        ("step,value\n", "no rows"),
        ("step,value\n1,2\n2,much\n", "row 3: value is 'much'"),
        ("step,value\n,2\n", "row 2: step is None"),
        ("", "cannot be read"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(content)
    with pytest.raises(AnalysisError, match=message):
        read_curve(file, "step", "value")
