"""Exports: weights for transformers, adapters for peft and vLLM, editors to attach again, and the card beside them."""

import json
import re
import shlex
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import errata
from errata.analysis.frames import load_run
from errata.editors.update import Dense, LowRank
from errata.edits import Fact
from errata.errors import ConfigError, NumericalError, RunError
from errata.export import export, exporting
from errata.export.card import Contents, card, plain
from errata.export.factors import TOLERANCE, Factors, factorise
from errata.export.forms import Exported
from errata.export.forms import contents as contents_of
from errata.export.lora import served_rank
from errata.export.measure import Fidelity
from errata.models import load
from errata.probes.scoring import score
from errata.studies.edited import open_edited
from errata.studies.recipe import Recipe
from errata.studies.run import run
from errata.trajectory import DiskJournal
from fake_run import make_run
from tiny import tiny_facts, tiny_model, tiny_text_file
from trained import trained

# peft 0.21 still asks transformers 5 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

HOSTILE = 'Eve <img src=x onerror="alert(1)"> | [a](javascript:alert(1)) `*_ https://evil.example\n# Bea'
METHODS = {
    "memit": {
        "layers": [0, 1],
        "ridge": 0.01,
        "covariance_weight": 10.0,
        "value": {"lr": 0.3, "steps": 10, "weight_decay": 0.01},
        "contexts": {"lengths": [[3, 2]]},
    },
    "ft-c": {"layer": 1, "lr": 0.02, "epsilon": 0.05, "steps": 3, "bias": False},
    "grace": {"layer": 1, "steps": 15, "epsilon": 0.5},
    "wise": {"layer": 2, "lr": 0.3, "steps": 10, "alpha": 50.0, "beta": 1.0, "act_ratio": 0.3},
    "scr": {},
    "serac": {},
}
FACTS = tiny_facts(6)
PROMPTS = [text for fact in FACTS for text in (fact.text, *fact.paraphrase_prompts, *fact.neighborhood_prompts)]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("export")
    tiny_text_file(root)
    for family in ("gpt2", "llama"):
        model = tiny_model(family)
        model.model.save_pretrained(root / family)
        model.tokenizer.save_pretrained(root / family)
    records = [fact.to_mapping() for fact in FACTS]
    records[3] |= {"subject": HOSTILE, "target_true": "</td><script>1</script>"}
    (root / "facts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def runs(home):
    """Run a method on a family once, and return the directory."""
    made: dict[tuple[str, str], Path] = {}

    def of(method: str, family: str = "gpt2") -> Path:
        key = method, family
        if key not in made:
            settings = dict(METHODS[method])
            if method in ("memit", "wise"):
                settings["statistics"] = {"source": str(home / "text.txt")}
            if method == "serac":
                settings["checkpoint"] = str(shutil.copytree(trained("serac", load(home / family)), home / "network"))
            content = {
                "model": {"name": str(home / family)},
                "method": {"name": method, **settings},
                "edits": {"dataset": "jsonl", "path": str(home / "facts.jsonl")},
                "probes": [{"name": "proficiency"}, {"name": "forgetting", "every": 3}] if family == "gpt2" else [],
                "run": {"name": method, "checkpoint_every": 3},
            }
            made[key] = run(Recipe.model_validate(content), home / f"run-{method}-{family}")
        return made[key]

    return of


def logits_of(model, tokenizer) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in PROMPTS]


def edited_logits(directory: Path) -> list[torch.Tensor]:
    with closing(open_edited(directory)) as edited:
        return logits_of(edited.model.model, edited.model.tokenizer)


def furthest(ours, theirs) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def test_full_weights_load_in_plain_transformers_with_the_same_logits_bit_for_bit(runs, tmp_path) -> None:
    export(runs("memit"), tmp_path / "out", "full")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert furthest(logits_of(model, tokenizer), edited_logits(runs("memit"))) == 0.0
    assert errata.load(tmp_path / "out").n_layers == 4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_is_the_edited_model_beside_the_base_and_merged(runs, home, tmp_path, family) -> None:
    made = export(runs("memit", family), tmp_path / "out", "lora")
    base = AutoModelForCausalLM.from_pretrained(home / family)
    tokenizer = AutoTokenizer.from_pretrained(home / family)
    before, wanted = logits_of(base, tokenizer), edited_logits(runs("memit", family))
    assert furthest(before, wanted) > 0.1, "the edits must change something for the rest to mean anything"
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert furthest(logits_of(model, tokenizer), wanted) < 1e-5
    with model.disable_adapter():
        assert furthest(logits_of(model, tokenizer), before) == 0.0
    assert furthest(logits_of(model.merge_and_unload(), tokenizer), wanted) < 1e-5
    assert made.fidelity
    assert made.fidelity.logits < 1e-5
    assert made.fidelity.lost == ()
    assert made.ranks
    assert all(0 < rank <= len(FACTS) for rank in made.ranks.values())


def test_an_adapter_is_in_the_form_that_vllm_reads(runs, tmp_path) -> None:
    made = export(runs("memit", "llama"), tmp_path / "out", "lora")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    # What vllm/lora/peft_helper.py refuses or ignores: other patterns than one alpha / r, biases, whole modules.
    assert config["peft_type"] == "LORA"
    assert config["lora_alpha"] / config["r"] == 1.0
    assert config["bias"] == "none"
    assert not config["modules_to_save"]
    assert not config["use_dora"]
    assert not config["use_rslora"]
    assert made.max_lora_rank == 8
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    modules = {re.fullmatch(r"base_model\.model\.(.*)\.lora_[AB]\.weight", name)[1] for name in tensors}
    assert modules == set(config["target_modules"]) == {f"model.layers.{i}.mlp.down_proj" for i in (0, 1)}
    inside = Recipe.model_validate(json.loads((runs("memit", "llama") / "run.json").read_text())["config"])
    sizes = dict(load(inside.model.name).model.named_parameters())
    for module in modules:
        a, b = (tensors[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
        d_out, d_in = sizes[f"{module}.weight"].shape
        # vLLM stacks A (rank, in) and B (out, rank) into buffers of max_lora_rank, and cuts off what is larger.
        assert (a.shape, b.shape) == ((a.shape[0], d_in), (d_out, a.shape[0]))
        assert a.shape[0] <= config["r"] <= made.max_lora_rank
        assert a.dtype == b.dtype == torch.float32
    # Names that it parses: two parts before the module, none of an embedding, nothing beside A and B.
    assert len(tensors) == 2 * len(modules)
    assert not [name for name in tensors if "lora_embedding" in name or name.endswith(".bias")]
    # It compares the last part with the layers that a model class declares to take adapters.
    assert {module.rpartition(".")[2] for module in modules} == {"down_proj"}
    assert (config["task_type"], config["inference_mode"]) == ("CAUSAL_LM", True)
    assert not config.get("layers_to_transform")
    assert not config.get("megatron_config")


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (8, 8), (9, 16), (300, 320), (512, 512), (513, None)])
def test_the_rank_that_vllm_must_be_started_with(rank: int, served: int | None) -> None:
    change = LowRank(torch.zeros(600, rank), torch.zeros(rank, 600))
    assert served_rank({"h": Factors(change, rank, 1.0, dense=False)}) == served


def test_the_card_of_a_lab_model_says_where_plain_transformers_finds_it(tmp_path) -> None:
    made = Exported(tmp_path / "out", "lora", 1, 1, 1, max_lora_rank=8)
    of_lab, other = (contents_of(made, name, "float32", [], {}, {}) for name in ("lab-s", "models/own"))
    assert "errata lab export lab-s --out lab-s" in of_lab.note
    assert "lab export" not in other.note


def test_matrices_of_different_ranks_are_each_added_as_they_are(runs, home, tmp_path) -> None:
    directory = runs("memit", "llama")
    journal = DiskJournal(directory)
    updates = {step: journal.update(step) for step in journal.active_steps()}
    first, last = min(updates), max(updates)
    paths = sorted(updates[last].changes)
    kept = {path: updates[last].changes[path] for path in paths[:1]}
    thinned = tmp_path / "run"
    shutil.copytree(directory, thinned)
    shutil.rmtree(thinned / "checkpoints")
    journal = DiskJournal(thinned)
    journal._store(last, type(updates[last])(kept))
    made = export(thinned, tmp_path / "out", "lora")
    assert made.ranks == {paths[0]: len(updates) - first + 1, paths[1]: len(updates) - first}
    base = AutoModelForCausalLM.from_pretrained(home / "llama")
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "llama")
    assert furthest(logits_of(model, tokenizer), edited_logits(thinned)) < 1e-5


def test_a_smaller_rank_costs_what_it_says(runs, home, tmp_path) -> None:
    made = export(runs("memit"), tmp_path / "out", "lora", rank=1)
    assert set(made.ranks.values()) == {1}
    assert all(0.1 < share < 0.999 for share in made.kept.values())
    base = AutoModelForCausalLM.from_pretrained(home / "gpt2")
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "gpt2")
    with closing(open_edited(runs("memit"))) as edited:
        texts = [fact.text for fact in edited.stream.facts]
        ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
        with torch.no_grad():
            differences = [model(i).logits[0, -1] - edited.model.model(i).logits[0, -1] for i in ids]
    measured = max(float(difference.abs().max()) for difference in differences)
    assert made.fidelity.logits == pytest.approx(measured, abs=1e-4)
    assert measured > 1e-3


def test_fine_tuning_has_no_small_adapter_unless_asked_for_with_its_loss(runs, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"in \d+ of its 32 directions.*--rank R"):
        export(runs("ft-c"), tmp_path / "out", "lora")
    assert not (tmp_path / "out").exists()
    made = export(runs("ft-c"), tmp_path / "out", "lora", rank=4)
    assert 0.3 < min(made.kept.values()) < 0.9999
    assert made.fidelity.logits > 1e-4


@pytest.mark.parametrize("method", ["grace", "wise", "scr", "serac"])
def test_an_editor_attaches_again_and_leaves_no_trace(runs, home, tmp_path, method) -> None:
    export(runs(method), tmp_path / "out", "editor")
    assert not [file for file in (tmp_path / "out").iterdir() if file.suffix in (".pkl", ".pt", ".bin")]
    pairs = [(fact.text, fact.target_new) for fact in FACTS]
    with closing(open_edited(runs(method))) as edited:
        wanted = score(edited.model, pairs)
    (home / "text.txt").rename(home / "away.txt")  # what the method learnt beside is not there any more
    shutil.rmtree(home / "network", ignore_errors=True)
    try:
        model = load(home / "gpt2")
        before = score(model, pairs)
        attached = errata.attach(model, tmp_path / "out")
        assert score(model, pairs) == wanted != before
        attached.detach()
        attached.detach()
        assert score(model, pairs) == before
        with errata.attach(model, tmp_path / "out"):
            assert score(model, pairs) == wanted
        assert score(model, pairs) == before
    finally:
        (home / "away.txt").rename(home / "text.txt")


def test_an_editor_knows_its_model_and_its_own_files(runs, home, tmp_path) -> None:
    export(runs("grace"), tmp_path / "out", "editor")
    with pytest.raises(ConfigError, match="weights differ"):
        errata.attach(load(home / "llama"), tmp_path / "out")
    with pytest.raises(RunError, match="no editor to attach"):
        errata.attach(load(home / "gpt2"), home / "gpt2")
    state = tmp_path / "out" / "editor.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    with pytest.raises(RunError, match="damaged"):
        errata.attach(load(home / "gpt2"), tmp_path / "out")
    (tmp_path / "out" / "editor.json").write_text("[]")
    with pytest.raises(RunError, match="no editor of format 1"):
        errata.attach(load(home / "gpt2"), tmp_path / "out")


@pytest.mark.parametrize(
    ("method", "form", "message"),
    [
        ("grace", "lora", "beside the weights.*--as editor"),
        ("grace", "full", "beside the weights.*--as editor"),
        ("memit", "editor", "into the weights.*--as full"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(runs, tmp_path, method, form, message) -> None:
    with pytest.raises(ConfigError, match=message):
        export(runs(method), tmp_path / "out", form)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_place_is_refused_and_a_failed_export_leaves_nothing(runs, tmp_path, monkeypatch) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    for place in (tmp_path / "taken", tmp_path / "taken" / "mine.txt"):
        with pytest.raises(ConfigError, match="not an empty directory"):
            export(runs("memit"), place, "full")
    (tmp_path / "empty").mkdir()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(exporting, "card", full)
        with pytest.raises(RunError, match="No space left"):
            export(runs("memit"), tmp_path / "empty", "full")
    assert list((tmp_path / "empty").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "taken"]
    export(runs("memit"), tmp_path / "empty", "full")
    assert (tmp_path / "empty" / "README.md").exists()


def test_the_card_names_every_edit_and_obeys_none(runs, tmp_path) -> None:
    export(runs("memit"), tmp_path / "out", "full")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == len(FACTS)
    assert all(len(re.findall(r"\|", row)) == 9 for row in rows), "no subject may add a cell"
    body = text.split("```", 2)[2]
    assert "<" not in body
    assert "](" not in body
    assert "https:" not in body
    assert "javascript:" not in body
    assert "## Known damage" in text
    assert "Bea" in rows[3]
    assert [json.loads(line)["id"] for line in (tmp_path / "out" / "edits.jsonl").read_text().splitlines()] == [
        fact.id for fact in FACTS
    ]


def plain_words(text: str) -> str:
    return re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), text)


def test_a_run_without_probes_says_that_nothing_is_known(runs, tmp_path) -> None:
    export(runs("memit", "llama"), tmp_path / "out", "full")
    text = plain_words((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert "What the edits cost elsewhere was not measured" in text


def test_the_card_tells_what_broke_and_what_nobody_looked_at(tmp_path) -> None:
    directory = make_run(tmp_path / "rome", n=60, collapse=40, subject="<b>Mallory</b>")
    entries = DiskJournal(directory).entries
    facts = {f.id: f for f in (Fact.from_mapping(r, r["id"]) for r in load_run(directory).facts)}
    entries[4] = replace(entries[4], status="rolled-back", verdict="too large")
    contents = Contents(
        what="plain weights",
        usage="",
        serve="",
        note="",
        relation="finetune",
        exported=["One sentence."],
        entries=entries,
        facts=facts,
        stated={entry.id: True for entry in entries},
    )
    text = plain_words(card(directory, contents))
    damage = text[text.index("## Known damage") : text.index("## Edits")]
    assert re.search(r"1 edit \(40 \(.*\)\): judged to disable a model and applied all the same", damage)
    assert "rolled-back and not in the model" in damage
    assert re.search(r"Only the first \d+ of 60 edits were safe", damage)
    assert "| perplexity | 8 |" in damage
    assert re.search(r"\| unrelated facts \| 100 % \| \d+ % \|", damage)
    assert "Not measured" not in damage
    shutil.rmtree(directory / "probes" / "downstream")
    assert "Not measured: tasks." in plain_words(card(directory, contents))
    entries[5] = replace(entries[5], status="undone")
    text = plain_words(card(directory, contents))
    assert "What the edits cost elsewhere was measured before 1 edit was taken back" in text
    assert "were safe" not in text
    assert "perplexity" not in text
    names_are_only_shown(directory, contents)


def names_are_only_shown(directory: Path, contents: Contents) -> None:
    """What the card tells to type is what was meant, whatever model and directory are called."""
    model, out = "x; `touch pwned` $(touch pwned)\n```\n", Path("it's $HOME`id`")
    kept = {"a": 0.8, "b": 1.0}
    exported = Exported(out, "lora", 1, 1, 1, {"a": 1, "b": 1}, kept, 8, Fidelity(0.1, 1, ()))
    assert exported.as_json()["errors"] == {"a": pytest.approx(0.6), "b": 0.0}
    told = contents_of(exported, model, "float32", contents.entries, contents.facts, {})
    assert shlex.split(told.serve)[2] == model
    assert shlex.split(told.serve)[-1] == f"corrected={out.name}"
    assert "Relative error of the change, by Frobenius norm: 0.6 at most (a)." in told.exported
    text = card(directory, told)
    assert f"````python\n{told.usage}\n````" in text
    assert f"````bash\n{told.serve}\n````" in text


def test_escaped_text_shows_what_it_was() -> None:
    shown = plain("a|b *c* <d>\n\u202ee` [f](g) www.h.org http://i {{j}}: \\|")
    assert plain_words(shown) == "a|b *c* <d> e` [f](g) www.h.org http://i {{j}}: \\|"
    left = re.sub(r"&#\d+;", "?", shown)
    assert left == "a?b ?c? ?d? e? ?f?(g) www?h.org http?//i ??j??: ??"


def test_factors_are_the_sum_and_no_more() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    same = LowRank(draw(20, 2), draw(2, 30))
    parts = [same, LowRank(-0.5 * same.left, same.right), LowRank(draw(20, 1), draw(1, 30))]
    whole = sum(part.left @ part.right for part in parts)
    found = factorise(parts)
    assert (found.rank, found.numerical, found.dense) == (3, 3, False)
    assert found.kept == 1.0
    assert float((found.change.left.double() @ found.change.right.double() - whole).abs().max()) < 1e-5
    dense = factorise([*parts, Dense(torch.zeros(20, 30))])
    assert dense.dense
    torch.testing.assert_close(dense.change.left @ dense.change.right, found.change.left @ found.change.right)
    shorter = factorise(parts, 1)
    s = torch.linalg.svdvals(whole)
    assert shorter.kept == pytest.approx(float(s[0] / s.norm()))
    many = factorise([LowRank(draw(20, 1), draw(1, 30)) for _ in range(Random(0).randint(40, 50))])
    assert many.rank == 20
    assert not many.saves


def test_factors_of_nothing_and_of_nan() -> None:
    zeros = factorise([LowRank(torch.zeros(4, 1), torch.ones(1, 5))])
    assert (zeros.rank, zeros.kept) == (0, 1.0)
    dead = LowRank(torch.full((4, 1), float("nan")), torch.ones(1, 5))
    with pytest.raises(NumericalError, match="NaN"):
        factorise([dead], where="h.0")
    tiny = LowRank(torch.eye(4)[:, :2], torch.eye(5)[:2] * torch.tensor([[1.0], [TOLERANCE / 2]]))
    assert factorise([tiny]).rank == 1
