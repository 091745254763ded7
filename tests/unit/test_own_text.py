"""Statistics from text that the model writes itself: seeded, resumable, and read until they are good enough."""

from pathlib import Path

import pytest
import torch

from errata.editors.statistics import StatisticsStore, excess
from errata.editors.text_source import TextSource
from errata.models.writing import _drawn, beginning, written
from tiny import tiny_model


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_what_is_written_is_what_the_model_would_say_and_depends_on_the_seed_alone(family: str) -> None:
    model = tiny_model(family)
    rows = written(model, 64, 6, torch.Generator().manual_seed(3))
    assert rows == written(model, 64, 6, torch.Generator().manual_seed(3))
    assert rows != written(model, 64, 6, torch.Generator().manual_seed(4))
    assert {row[0] for row in rows} == {beginning(model)}
    # The last token of each row was drawn from what the whole row before it predicts.
    with torch.no_grad():
        logits = model.model(torch.tensor(rows)[:, :-1]).logits[:, -1].double()
    chances = torch.softmax(logits, -1)
    drawn = chances.gather(1, torch.tensor(rows)[:, -1:])
    # Σp² is what a draw's probability is on average; a wrong cache or a greedy choice is far from it.
    expected = chances.pow(2).sum(-1).mean()
    assert float(drawn.mean()) == pytest.approx(float(expected), rel=0.35)


def test_excess_is_that_of_gaussian_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    d, n = 40, 200
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    keys = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix
    more = torch.randn(4000, d, generator=generator, dtype=torch.float64) @ mix
    C = keys.T @ keys / n
    assert excess(C, keys) == pytest.approx(1.0)
    assert excess(C, more) == pytest.approx(n / (n - d - 1), rel=0.1)
    assert excess(torch.zeros(d, d, dtype=torch.float64), more) == float("inf")


def test_reading_stops_at_the_bound_and_a_tighter_bound_reads_more() -> None:
    model = tiny_model("llama")
    tokens = []
    for bound in (3.0, 1.02):
        (moment,) = StatisticsStore().second_moments(model, [1], TextSource(bound=bound))
        tokens.append(moment.tokens)
    assert tokens[0] < tokens[1]
    (all_of_it,) = StatisticsStore().second_moments(model, [1], TextSource(bound=None, samples=40))
    assert all_of_it.tokens == 40 * 64


def test_an_interrupted_count_of_own_text_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from errata.editors import statistics

    monkeypatch.setattr(statistics, "_SAVE_EVERY", 1)
    model, source = tiny_model("gpt2"), TextSource(bound=None, samples=100)
    whole = StatisticsStore().second_moments(model, [0], source)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StatisticsStore(tmp_path, stop).second_moments(model, [0], source)
    (resumed,) = StatisticsStore(tmp_path).second_moments(model, [0], source)
    assert torch.equal(resumed.matrix, whole[0].matrix)
    assert resumed.tokens == whole[0].tokens == 100 * 64


def test_the_default_needs_no_file_and_no_network() -> None:
    assert TextSource().source == "self"
    assert "writes itself" in TextSource().check()


def test_a_token_drawn_by_blocks_is_the_one_that_all_cumulated_probabilities_give() -> None:
    logits = 3 * torch.randn(200, 1300, generator=torch.Generator().manual_seed(1))
    logits[0, :1299] = -torch.inf  # all is in the last, unfilled block
    drawn = _drawn(logits, torch.Generator().manual_seed(2))
    uniform = torch.rand(200, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cumulated = logits.softmax(-1).double().cumsum(-1)
    assert torch.equal(drawn, torch.searchsorted(cumulated, uniform * cumulated[:, -1:]))
    assert drawn[0] == 1299
    assert _drawn(torch.full((1, 1300), torch.nan), torch.Generator().manual_seed(2)).item() == 0


def test_a_layer_s_statistics_do_not_depend_on_which_others_are_asked_for(tmp_path: Path) -> None:
    model, source = tiny_model("llama"), TextSource(bound=1.1)
    together = StatisticsStore().second_moments(model, [0, 1], source)
    alone = [StatisticsStore().second_moments(model, [layer], source)[0] for layer in (0, 1)]
    assert {m.tokens for m in alone} != {alone[0].tokens}, "the test needs layers that end at different tokens"
    for a, b in zip(together, alone, strict=True):
        assert a.tokens == b.tokens
        assert torch.equal(a.matrix, b.matrix)


def test_a_count_of_which_some_layers_have_ended_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from errata.editors import statistics

    monkeypatch.setattr(statistics, "_SAVE_EVERY", 1)
    model, source = tiny_model("llama"), TextSource(bound=1.1)
    whole = StatisticsStore().second_moments(model, [0, 1], source)
    first = min(moment.tokens for moment in whole)
    chunks = first // (32 * 64)  # one layer has ended, the other has not

    def stop(done: int, total: int) -> None:
        if done == chunks + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StatisticsStore(tmp_path, stop).second_moments(model, [0, 1], source)
    resumed = StatisticsStore(tmp_path).second_moments(model, [0, 1], source)
    assert [moment.tokens for moment in resumed] == [moment.tokens for moment in whole]
    assert all(torch.equal(a.matrix, b.matrix) for a, b in zip(resumed, whole, strict=True))
