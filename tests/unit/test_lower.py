"""What enters the first edited block is kept: the scores are those of the whole model, whatever the budgets are."""

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

from errata.editors.registry import editor_class
from errata.models import EditableModel
from errata.models import lower as lower_module
from errata.models.lower import LowerStates
from errata.probes.generation import generate
from errata.probes.scoring import score
from errata.studies import run as run_module
from errata.studies.progress import Progress
from errata.studies.recipe import load_recipe
from errata.studies.run import resume, run
from errata.studies.unchanged import first_changed, kept_states
from tiny import FAMILIES, FLOAT32_INSIDE, tiny_facts, tiny_model, tiny_text_file

FACTS = tiny_facts(6)
PAIRS = [(f.text, f.target_new) for f in FACTS] + [(f.paraphrase_prompts[1], "old trees near water") for f in FACTS]
PLENTY = 2**24


@contextmanager
def tokens_read(model: EditableModel, layer: int) -> Iterator[list[int]]:
    """Count the tokens, padding included, that a block is really run on."""
    seen: list[int] = []
    inside = model.module(model.mlp_out(layer))
    handle = inside.register_forward_hook(lambda _m, args, _o: seen.append(args[0][..., 0].numel()))
    yield seen
    handle.remove()


def row_tokens(model: EditableModel) -> int:
    """Tokens of all rows that PAIRS need, each once: an object's last token is not read."""
    rows = {(*model.encode([p])[0], *model.encode_target(t)[:-1]) for p, t in PAIRS}
    return sum(map(len, rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_whole_model_and_no_budget_changes_a_bit(family: str) -> None:
    model = tiny_model(family, torch.float64)
    found = []
    for memory, disk in ((PLENTY, 0), (0, 0), (2000, 4000)):
        with closing(LowerStates(model, memory, disk)) as states, states.lent(2):
            found += [score(model, PAIRS), score(model, PAIRS)]
            assert states.in_memory <= memory
            assert states.on_disk <= disk
    assert all(scores == found[0] for scores in found)
    for a, b in zip(score(model, PAIRS), found[0], strict=True):
        assert a.logp == pytest.approx(b.logp, abs=FLOAT32_INSIDE.get(family, 1e-12))
        assert a.exact == b.exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_do_not_depend_on_what_else_is_asked(dtype: torch.dtype) -> None:
    model = tiny_model("llama", dtype)
    rows = model.encode([f.text for f in FACTS] + [f"{f.text} old trees near water" for f in FACTS])
    with closing(LowerStates(model, 0, PLENTY)) as states, states.lent(2):
        together = states._states(rows)
        kept = states._states(rows[::-1])[::-1]
    with closing(LowerStates(model, PLENTY, 0)) as states, states.lent(2):
        alone = [states._states([row])[0] for row in rows]
    for a, b, c in zip(together, kept, alone, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_blocks_below_run_once_for_each_token_and_those_above_each_time(family: str) -> None:
    model = tiny_model(family)
    needed = row_tokens(model)
    with (
        closing(LowerStates(model, PLENTY, PLENTY)) as states,
        states.lent(2),
        tokens_read(model, 0) as first,
        tokens_read(model, 1) as second,
        tokens_read(model, 2) as third,
    ):
        score(model, PAIRS)
        assert sum(first) == sum(second) == needed
        above = sum(third)
        assert needed <= above < 1.5 * needed
        score(model, PAIRS)
        assert sum(first) == sum(second) == needed
        assert sum(third) == 2 * above


def test_states_beyond_both_budgets_are_read_again() -> None:
    model = tiny_model("gpt2")
    needed = row_tokens(model)
    kept = needed * model.hidden_size * 4
    for memory, disk, again in ((kept, 0, 0), (0, kept, 0), (kept // 2, kept // 2 + 4000, 0), (0, 0, needed)):
        with closing(LowerStates(model, memory, disk)) as states, states.lent(1), tokens_read(model, 0) as read:
            score(model, PAIRS)
            score(model, PAIRS)
            assert sum(read) == needed + again
    with closing(LowerStates(model, kept // 4, kept // 4)) as states, states.lent(1), tokens_read(model, 0) as read:
        score(model, PAIRS)
        assert min(states.in_memory, states.on_disk) > 0
        score(model, PAIRS)
        assert needed < sum(read) < 2 * needed


def test_a_full_disk_is_a_smaller_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    with closing(LowerStates(model, 0, PLENTY)) as states, states.lent(1):
        whole = score(model, PAIRS)

    class Full:
        def write(self, data: memoryview) -> int:
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: None

    with closing(LowerStates(model, 0, PLENTY)) as states, states.lent(1):
        states._file.close()
        monkeypatch.setattr(states, "_file", Full())
        assert score(model, PAIRS) == score(model, PAIRS) == whole
        assert states.on_disk == 0
        monkeypatch.setattr(states, "_file", tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
        score(model, PAIRS)
        assert states.on_disk == 0  # once full, it is not tried again at every row
        with states.lent(2):
            score(model, PAIRS)
        assert states.on_disk == row_tokens(model) * model.hidden_size * 4  # what had been written is forgotten


def test_what_does_not_fit_in_memory_lies_in_the_folder_asked_for(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(lower_module, "TemporaryFile", lambda **given: asked.append(given["dir"]) or io.BytesIO())
    kept_states(tiny_model("gpt2"), tmp_path).close()
    kept_states(tiny_model("gpt2")).close()
    assert asked == [tmp_path, None]


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_a_change_from_the_boundary_up_is_seen_and_nothing_stays_behind(family: str) -> None:
    model = tiny_model(family, torch.float64)
    prompts = [f.text for f in FACTS[:3]]
    said = generate(model, prompts, 4)
    with closing(LowerStates(model, PLENTY, 0)) as states:
        with states.lent(1):
            score(model, PAIRS)
            model.weight(model.mlp_out(1)).mul_(1.5)
            here = score(model, PAIRS)
        assert model.begun is None
        assert [s.logp for s in here] == pytest.approx(
            [s.logp for s in score(model, PAIRS)], abs=FLOAT32_INSIDE.get(family, 1e-12)
        )
        with pytest.raises(ZeroDivisionError), states.lent(1), states._begun([[1, 2, 3]]):
            raise ZeroDivisionError
    assert model.begun is None
    assert all("forward" not in vars(model.block(i)) for i in range(model.n_layers))
    model.weight(model.mlp_out(1)).div_(1.5)
    assert generate(model, prompts, 4) == said


def test_an_edit_below_is_noticed() -> None:
    model = tiny_model("llama", torch.float64)
    memit = editor_class("memit")
    editor = memit(memit.Settings(layers=(1, 2)))
    above, below = model.mlp_out(2), model.mlp_in(0)[0]
    assert first_changed(model, editor, []) == 1
    assert first_changed(model, editor, [above]) == 1
    assert first_changed(model, editor, [above, below]) == 0
    assert first_changed(model, editor, ["model.embed_tokens"]) == 0
    with closing(kept_states(model)) as states:
        with states.lent(first_changed(model, editor, [above])):
            score(model, PAIRS)
        model.weight(below).mul_(1.5)
        with states.lent(first_changed(model, editor, [above, below])):
            here = score(model, PAIRS)
    assert here == score(model, PAIRS)


def test_where_nothing_is_certain_nothing_is_kept() -> None:
    model = tiny_model("gpt2")
    for name, settings in (("grace", {"layer": 2}), ("wise", {"layer": 2}), ("ike", {}), ("kn", {})):
        cls = editor_class(name)
        assert first_changed(model, cls(cls.Settings.model_validate(settings)), []) == 0
    rome = editor_class("rome")
    assert first_changed(model, rome(rome.Settings(layer=2)), []) == 2


def test_other_lower_blocks_forget_what_was_kept() -> None:
    model = tiny_model("gpt2")
    with closing(LowerStates(model, PLENTY, 0)) as states:
        with states.lent(2):
            score(model, PAIRS)
        with states.lent(1), tokens_read(model, 0) as read:
            score(model, PAIRS)
    assert sum(read) == row_tokens(model)


class _InterruptedError(Exception):
    pass


class _StopAfter(Progress):
    def __init__(self, step: int) -> None:
        self.step = step

    def edited(self, entries, rows, seconds) -> None:
        if entries[-1].step >= self.step:
            raise _InterruptedError


def rows_of(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "probes").rglob("*.parquet"))}


def test_rows_of_a_run_depend_on_no_budget_and_no_interruption(tmp_path, monkeypatch) -> None:
    model = tiny_model("gpt2")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(f.to_mapping()) + "\n" for f in FACTS[:4]))
    text = str(tiny_text_file(tmp_path))
    method = {"name": "ft-c", "layer": 2, "steps": 1}
    probes = [
        {"name": "proficiency"},
        {"name": "forgetting", "every": 2},
        {"name": "perplexity", "source": text, "lines": 9},
    ]
    recipe = load_recipe(
        {
            "model": {"name": str(tmp_path / "model")},
            "method": method,
            "edits": {"dataset": "jsonl", "path": str(tmp_path / "facts.jsonl")},
            "probes": probes,
            "run": {"checkpoint_every": 2},
        }
    )
    whole = rows_of(run(recipe, tmp_path / "whole"))
    monkeypatch.setattr(run_module, "kept_states", lambda m, *_: LowerStates(m, 3000, 3000))
    assert rows_of(run(recipe, tmp_path / "little")) == whole
    monkeypatch.undo()
    with pytest.raises(_InterruptedError):
        run(recipe, tmp_path / "cut", _StopAfter(3))
    resume(tmp_path / "cut")
    assert rows_of(tmp_path / "cut") == whole
