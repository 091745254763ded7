"""Small things every test can afford: tokenizers, models of each family, facts and text, made in milliseconds.

The models are random: they know nothing, but they have the real architectures, layouts and tokenization.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from errata.edits import Fact
from errata.models import EditableModel

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama")

_FIRST = ("Ada", "Boris", "Chloe", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Inés", "Jonas", "Karla", "Liu")
_LAST = ("Abend", "Bell", "Corso", "Dvorak", "Engel", "Fabre", "Grieg", "Holm", "Ibarra", "Jansen", "Kato", "Lund")
_RELATIONS = {
    "town": (("{} was born in", "The birth town of {} is"), ("Oslo", "Turin", "Quito", "Lagos", "Kyoto")),
    "language": (("{} speaks", "The mother tongue of {} is"), ("French", "Greek", "Hindi", "Welsh", "Tamil")),
    "job": (("{} works as a", "The job of {} is that of a"), ("baker", "pilot", "judge", "tailor", "painter")),
}
_PROSE = (
    "Therefore Because however these old houses stand near water and many people walk there each day because "
    "morning light falls over stone bridges while children play music under green trees beside slow rivers"
)
_VOCABULARY = 420


def tiny_text() -> list[str]:
    """Return 60 short lines: sentences of the tiny facts between lines of prose."""
    words = _PROSE.split()
    lines = []
    for i, fact in enumerate(tiny_facts(30)):
        lines.append(f"{fact.text} {fact.target_true}. {fact.paraphrase_prompts[0]} {fact.target_true}.")
        lines.append(" ".join(words[(7 * i + j) % len(words)] for j in range(14)) + ".")
    return lines


def tiny_text_file(folder: Path) -> Path:
    """Write `tiny_text` as a text file, the form in which statistics and perplexity read it."""
    file = folder / "text.txt"
    file.write_text("\n".join(tiny_text()) + "\n", encoding="utf-8")
    return file


def tiny_facts(n: int) -> list[Fact]:
    """Return n ≤ 144 facts with ids "0", "1", ...: subjects of two words, all different, objects shared."""
    facts = []
    for i in range(n):
        relation, (prompts, objects) = list(_RELATIONS.items())[i % 3]
        facts.append(
            Fact(
                subject=_name(i),
                prompt=prompts[0],
                target_new=objects[i % 5],
                target_true=objects[(i + 2) % 5],
                id=str(i),
                relation=relation,
                paraphrase_prompts=(prompts[1].format(_name(i)), f"These days {prompts[0].format(_name(i))}"),
                neighborhood_prompts=tuple(prompts[0].format(_name(i + k)) for k in (50, 73)),
            )
        )
    return facts


def _name(i: int) -> str:
    return f"{_FIRST[i % 12]} {_LAST[(i // 12 + i) % 12]}"


def tiny_tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 420 entries: common words whole, names in pieces, anything else as bytes.

    Args:
        bos: put a beginning token before every text, as Llama does; GPT-2 does not.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tiny_text(), trainer)
    if bos:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]),
            ]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_config(family: str) -> PreTrainedConfig:
    """Return the configuration of a family's tiny model."""
    # Weights ten times wider than the usual 0.02: predictions that are not all alike.
    common = {"vocab_size": _VOCABULARY, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
    small = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}
    wide = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 128}
    if family == "gpt2":
        return GPT2Config(**common, **small)
    if family == "gptj":
        return GPTJConfig(**common, **small, rotary_dim=4, tie_word_embeddings=False)
    if family == "gpt_neox":
        return GPTNeoXConfig(**common, **wide, intermediate_size=96, tie_word_embeddings=False)
    if family == "llama":
        return LlamaConfig(
            **common, **wide, intermediate_size=80, num_key_value_heads=2, tie_word_embeddings=False, pad_token_id=0
        )
    raise ValueError(family)


def tiny_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> EditableModel:
    """Return a random model of a family; the same seed gives the same weights.

    Args:
        family: one of FAMILIES.
        dtype: precision of the weights.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(family)).to(dtype)
    return EditableModel(model, tiny_tokenizer(bos=family == "llama"), f"tiny-{family}")
