"""The upper layers alone give what the whole model gives."""

import pytest
import torch

from errata.models.replay import UpperLayers
from tiny import FAMILIES, tiny_model

TEXTS = (
    "Ada Abend was born in",
    "The mother tongue of Boris Bell is",
    "Greta",
    "Children play music under green trees",
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_logits_equal_the_full_forward_on_a_padded_batch(family: str, layer: int) -> None:
    model = tiny_model(family, torch.float64)
    layer %= model.n_layers
    tokens = model.pad(model.encode(TEXTS))
    upper = UpperLayers(model, layer, tokens.input_ids, tokens.attention_mask)
    rows = torch.tensor([i for i, n in enumerate(tokens.lengths) for _ in range(n)])
    positions = torch.tensor([p for n in tokens.lengths for p in range(n)])
    with torch.no_grad():
        whole = model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits
        replayed = upper.logits(upper.hidden, rows, positions)
    torch.testing.assert_close(replayed, whole[rows, positions].to(replayed.dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_a_row(family: str) -> None:
    model = tiny_model(family, torch.float64)
    (ids,) = model.encode([TEXTS[2]])
    alone, together = model.pad([ids]), model.pad(model.encode(TEXTS))
    last = torch.tensor([len(ids) - 1])
    logits = []
    for tokens, row in ((alone, 0), (together, 2)):
        upper = UpperLayers(model, 0, tokens.input_ids, tokens.attention_mask)
        with torch.no_grad():
            logits.append(upper.logits(upper.hidden, torch.tensor([row]), last))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_at_the_block_equals_the_same_change_made_in_the_model(family: str) -> None:
    model = tiny_model(family, torch.float64)
    tokens = model.pad(model.encode(TEXTS))
    upper = UpperLayers(model, 1, tokens.input_ids, tokens.attention_mask)
    delta = torch.linspace(-1, 1, model.hidden_size, dtype=torch.float64)
    changed = upper.hidden.clone()
    changed[0, 2] += delta

    def add(_module, _args, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        hidden[0, 2] += delta

    handle = model.block(1).register_forward_hook(add)
    with torch.no_grad():
        whole = model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits
        handle.remove()
        at = torch.tensor([tokens.lengths[0] - 1])
        replayed = upper.logits(changed, torch.tensor([0]), at)
    torch.testing.assert_close(replayed[0], whole[0, at[0]].to(replayed.dtype), rtol=0, atol=1e-6)


def test_gradients_reach_the_hidden_states_and_no_weight() -> None:
    model = tiny_model("llama")
    tokens = model.pad(model.encode(TEXTS))
    upper = UpperLayers(model, 0, tokens.input_ids, tokens.attention_mask)
    hidden = upper.hidden.clone().requires_grad_(True)
    upper.logits(hidden, torch.tensor([0]), torch.tensor([3])).sum().backward()
    assert hidden.grad is not None
    assert float(hidden.grad[0, :4].abs().min()) > 0
    assert float(hidden.grad[0, 4:].abs().max()) == 0
    assert all(p.grad is None for p in model.model.parameters())
