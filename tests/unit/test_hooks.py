"""Hooks read and change hidden states whether a module returns a tensor or a tuple, and leave nothing behind."""

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from errata.models.hooks import add_to_outputs, cache_given, cache_to, capture, hidden_of, with_hidden
from tiny import FAMILIES, tiny_model


class Pair(nn.Module):
    """A module that returns a tuple, as blocks of older releases and attention modules do."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, str]:
        return hidden_states + 1, "weights"


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Pair(), nn.Identity(), nn.Identity()
        self.reached_the_end = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, _ = self.first(hidden_states=x)
        y: torch.Tensor = self.third(self.second(x))
        self.reached_the_end = True
        return y


def test_a_batch_is_not_taken_for_a_tuple() -> None:
    batch = torch.arange(6.0).reshape(2, 3)
    assert hidden_of(batch) is batch
    assert hidden_of((batch, None)) is batch
    assert with_hidden(batch, batch + 1).shape == (2, 3)
    assert with_hidden((batch, "rest"), batch)[1] == "rest"


class Older(nn.Module):
    def forward(self, past_key_values: object = None) -> object:
        return past_key_values


class Newer(nn.Module):
    def forward(self, cache: object = None, **rest: object) -> object:
        return cache


@pytest.mark.parametrize("model", [Older(), Newer()])
def test_a_cache_is_given_and_found_by_the_release_s_own_name(model: nn.Module) -> None:
    given = []
    handle = model.register_forward_pre_hook(lambda _m, _a, kwargs: given.append(cache_given(kwargs)), with_kwargs=True)
    assert model(**cache_to(model, "keys")) == "keys"
    model()
    handle.remove()
    assert given == ["keys", None]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_takes_a_cache_without_a_warning(family: str) -> None:
    model, cache = tiny_model(family).model, DynamicCache()
    model(input_ids=torch.tensor([[1, 2]]), **cache_to(model, cache), use_cache=True)
    assert cache.get_seq_length() == 2


def test_capture_sees_input_and_output_by_position_and_by_keyword_and_stops() -> None:
    chain, x = Chain(), torch.ones(2, 3)
    with capture(chain, ["first", "second"]) as seen:
        chain(x)
    assert not chain.reached_the_end
    assert torch.equal(seen["first"].input, x)
    assert torch.equal(seen["first"].output, x + 1)
    assert torch.equal(seen["second"].input, x + 1)
    with capture(chain, ["first"], stop=False) as seen:
        chain(x)
    assert chain.reached_the_end


def test_asking_twice_for_a_module_still_stops_and_errors_pass() -> None:
    chain = Chain()
    with capture(chain, ["second", "second"]) as seen:
        chain(torch.ones(1, 1))
    assert list(seen) == ["second"]
    assert not chain.reached_the_end
    with pytest.raises(ZeroDivisionError), capture(chain, ["second"]):
        raise ZeroDivisionError


def test_outputs_are_changed_inside_the_block_only() -> None:
    chain, x = Chain(), torch.ones(2, 3)
    with add_to_outputs(chain, {"first": lambda received, output: output + 10 * received}):
        assert torch.equal(chain(x), x + 11)
    assert torch.equal(chain(x), x + 1)
    with pytest.raises(ZeroDivisionError), add_to_outputs(chain, {"first": lambda received, output: output}):
        raise ZeroDivisionError
    assert not any(m._forward_hooks for m in chain.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_declared_place_of_a_family_can_be_captured(family: str) -> None:
    model = tiny_model(family)
    block = model.block_path(1)
    paths = [block, f"{block}.{model.family.attention}", f"{block}.{model.family.mlp}", model.mlp_out(1)]
    ids = torch.tensor(model.encode(["Ada Abend was born in", "Ada Abend was born in"]))
    with capture(model.model, paths, stop=False) as seen:
        model.model(ids)
    assert all(seen[p].output.shape == (2, ids.shape[1], model.hidden_size) for p in paths)
    # The feed-forward output enters the residual stream additively: δ on v and δ on h are the same intervention.
    assert torch.equal(seen[paths[2]].output, seen[paths[3]].output)
    assert model.weight(paths[3]).shape == (model.hidden_size, seen[paths[3]].input.shape[-1])
