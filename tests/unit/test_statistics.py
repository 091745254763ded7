"""Second moments: right, resumable, and cached under a key that changes with what they depend on."""

from pathlib import Path
from random import Random

import pytest
import torch

from errata.editors import statistics
from errata.editors.contexts import ContextSettings, sample_contexts
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.editors.text_source import TextSource
from errata.errors import ModelError, StatisticsError
from errata.models import identity_of
from errata.models.hooks import capture
from tiny import FAMILIES, tiny_model, tiny_text, tiny_text_file


class StoppedError(Exception):
    pass


def source(folder: Path, **chosen) -> TextSource:
    return TextSource(**{"source": str(tiny_text_file(folder)), "batch": 4, **chosen})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_moment_is_the_mean_of_key_products_over_real_tokens(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    (moment,) = StatisticsStore().second_moments(model, [1], source(tmp_path, samples=5))
    keys = []
    for ids in model.encode(tiny_text()[:5]):
        with capture(model.model, [model.mlp_out(1)]) as seen, torch.no_grad():
            model.model(torch.tensor([ids]))
        keys.append(seen[model.mlp_out(1)].input[0].double())
    k = torch.cat(keys)
    assert moment.tokens == len(k)
    torch.testing.assert_close(moment.matrix, (k.T @ k / len(k)).float(), rtol=1e-4, atol=1e-5)


def test_texts_are_cut_to_max_tokens_and_to_what_the_model_can_read(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    (tmp_path / "long.txt").write_text("morning light falls over stone " * 200)
    for limit, expected in ((7, 7), (9999, 128)):
        text = TextSource(source=str(tmp_path / "long.txt"), max_tokens=limit)
        (moment,) = StatisticsStore().second_moments(model, [0], text)
        assert moment.tokens == expected


@pytest.mark.parametrize("stop_at", [2, 3, 7, 15])
def test_an_interrupted_count_ends_where_an_uninterrupted_one_does(tmp_path: Path, monkeypatch, stop_at: int) -> None:
    monkeypatch.setattr(statistics, "_SAVE_EVERY", 2)
    model, text = tiny_model("gpt2"), source(tmp_path)
    whole = StatisticsStore().second_moments(model, [0, 2], text)
    done: list[int] = []

    def stop(i: int, total: int) -> None:
        if i == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        StatisticsStore(tmp_path / "cache", stop).second_moments(model, [0, 2], text)
    resumed = StatisticsStore(tmp_path / "cache", lambda i, _: done.append(i)).second_moments(model, [0, 2], text)
    # Progress is told before a partial sum is saved, so an interruption at an even chunk repeats that chunk.
    assert done[0] == 2 * ((stop_at - 1) // 2) + 1
    assert all(torch.equal(a.matrix, b.matrix) and a.tokens == b.tokens for a, b in zip(whole, resumed, strict=True))
    assert not list((tmp_path / "cache").glob("partial-*"))


def test_the_cache_is_used_and_one_missing_layer_is_added(tmp_path: Path) -> None:
    model, text, cache = tiny_model("llama"), source(tmp_path), tmp_path / "cache"
    (first,) = StatisticsStore(cache).second_moments(model, [0], text)
    counted: list[int] = []
    store = StatisticsStore(cache, lambda i, _: counted.append(i))
    (again,) = store.second_moments(model, [0], text)
    assert not counted
    assert torch.equal(first.matrix, again.matrix)
    both = store.second_moments(model, [1, 0], text)
    assert counted
    assert torch.equal(both[1].matrix, first.matrix)
    assert not torch.equal(both[0].matrix, first.matrix)


def test_the_key_changes_with_model_text_and_amount_but_not_with_the_batch(tmp_path: Path) -> None:
    cache, text = tmp_path / "cache", source(tmp_path)
    models = [tiny_model("gpt2"), tiny_model("gpt2", seed=1), tiny_model("gpt2", torch.bfloat16)]
    (tmp_path / "other").mkdir()
    other = source(tmp_path / "other")
    Path(other.source).write_text("another text\n" * 40)
    for n, (model, chosen) in enumerate(
        [
            *((m, text) for m in models),
            (models[0], other),
            (models[0], text.model_copy(update={"samples": 7})),
            (models[0], text.model_copy(update={"max_tokens": 7})),
        ],
        1,
    ):
        StatisticsStore(cache).second_moments(model, [0], chosen)
        assert len(list(cache.iterdir())) == n
    StatisticsStore(cache).second_moments(models[0], [0], text.model_copy(update={"batch": 3}))
    assert len(list(cache.iterdir())) == 6


def test_the_identity_sees_an_edit_and_not_a_copy() -> None:
    model, copy = tiny_model("gptj"), tiny_model("gptj")
    before = identity_of(model)
    assert identity_of(copy) == before
    path = copy.mlp_out(2)
    copy.write(path, copy.weight(path) + 1e-3)
    assert identity_of(copy) != before


def test_damaged_and_empty_sources_are_named(tmp_path: Path) -> None:
    model, text, cache = tiny_model("gpt2"), source(tmp_path), tmp_path / "cache"
    StatisticsStore(cache).second_moments(model, [0], text)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StatisticsError, match=f"{file.name} cannot be read.*Delete the file"):
        StatisticsStore(cache).second_moments(model, [0], text)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(StatisticsError, match="gave no tokens"):
        StatisticsStore().second_moments(model, [0], TextSource(source=str(tmp_path / "empty.txt")))
    with pytest.raises(StatisticsError, match="does not exist"):
        StatisticsStore().second_moments(model, [0], TextSource(source=str(tmp_path / "absent.txt")))
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"txt": 1}\n')
    with pytest.raises(StatisticsError, match=r"bad\.jsonl, line 2"):
        StatisticsStore().second_moments(model, [0], TextSource(source=str(tmp_path / "bad.jsonl")))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_contexts_depend_on_the_seed_alone_and_leave_the_global_generator_be(family: str) -> None:
    model = tiny_model(family)
    settings = ContextSettings(lengths=((3, 4), (6, 2)), starts=("The", "Because"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = sample_contexts(model, settings, Random(1))
    assert torch.equal(torch.rand(3), expected)
    assert sample_contexts(model, settings, Random(1)) == first != sample_contexts(model, settings, Random(2))
    assert len(first) == 6
    assert all(t.endswith(". {}") and t.count("{}") == 1 and t.count("{") == 1 for t in first)
    assert [t.split()[0].startswith(w) for t, w in zip(first, ("The", "Because") * 2, strict=False)] == [True] * 4


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_contexts_sampled_together_are_those_sampled_one_by_one(family: str) -> None:
    model = tiny_model(family, torch.float64)
    settings = ContextSettings(lengths=((14, 3), (5, 2)), starts=("The", "These bridges"))
    found = sample_contexts(model, settings, Random(1))
    generator = torch.Generator().manual_seed(Random(1).getrandbits(63))
    one, other = settings.starts
    for length, start, text in zip((14, 14, 14, 5, 5), (one, other, one, one, other), found, strict=True):
        with model.bare():
            (ids,) = model.encode([start])
        first = len(ids)
        for _ in range(length):
            with torch.no_grad():
                top = model.model(torch.tensor([ids])).logits[0, -1].topk(5)
            ids.append(int(top.indices[torch.multinomial(top.values.softmax(-1), 1, generator=generator)]))
        assert len(ids) == first + length
        expected = model.tokenizer.decode(ids, skip_special_tokens=True).strip().replace("{", " ").replace("}", " ")
        assert text == expected + ". {}"


def test_a_model_that_answers_nan_gives_no_contexts() -> None:
    model = tiny_model("llama")
    model.parameter(model.mlp_out(1)).data.fill_(float("nan"))
    with pytest.raises(ModelError, match="already answers NaN"):
        sample_contexts(model, ContextSettings(), Random(0))


def test_top_1_is_greedy() -> None:
    model = tiny_model("gpt2")
    settings = ContextSettings(lengths=((4, 2),), top_k=1)
    templates = [sample_contexts(model, settings, Random(seed)) for seed in (1, 2)]
    assert templates[0] == templates[1]
    assert templates[0][0] == templates[0][1]


def test_what_is_derived_of_a_matrix_is_computed_once_for_its_content(tmp_path: Path) -> None:
    done: list[str] = []

    def double(matrix: torch.Tensor, what: str = "double") -> torch.Tensor:
        def compute() -> torch.Tensor:
            done.append(what)
            return matrix.double() * 2

        return StatisticsStore(tmp_path).derived(what, matrix, compute)

    C = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(double(C), double(C.clone()))
    assert done == ["double"]
    assert torch.equal(double(C + 1), (C + 1).double() * 2)
    double(C, "otherwise")
    assert done == ["double", "double", "otherwise"]
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"cut short")
    with pytest.raises(StatisticsError, match="Delete the file"):
        double(C)


def test_alphaedit_finds_a_null_space_once(tmp_path: Path, monkeypatch) -> None:
    model, text = tiny_model("gpt2"), source(tmp_path, samples=5)
    chosen = {"layers": (1,), "threshold": 0.5, "threshold_unit": "mean", "contexts": {"lengths": ((3, 2),)}}
    settings = resolve_settings("alphaedit", model, {**chosen, "statistics": text.model_dump()})
    found = []
    for _ in range(2):
        editor = editor_class("alphaedit")(settings)
        editor.prepare(model, StatisticsStore(tmp_path / "cache"), Random(0))
        found.append(editor.projectors()[model.mlp_out(1)])
        monkeypatch.setattr("errata.editors.methods.alphaedit.null_space", None)  # not asked again
    assert torch.equal(*found)
