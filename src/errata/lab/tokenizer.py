"""A byte-level BPE tokenizer made for the world: every word of it is one token, any other text still encodes."""

from collections.abc import Iterable
from typing import cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
BOS = "<s>"
PAD = "<pad>"


def train_tokenizer(texts: Iterable[str], *, bos: bool) -> PreTrainedTokenizerFast:
    """Train the tokenizer of a lab model.

    Args:
        texts: lines holding every word of the world.
        bos: whether a beginning token is put before every text.
    """
    tokenizer = Tokenizer(models.BPE())
    # The space is added before the first word too, so that a word is the same token wherever it stands.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, PAD, BOS] if bos else [END, PAD]
    trainer = trainers.BpeTrainer(
        # More than can be merged: merging goes on until every word is whole.
        vocab_size=8192,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    offsets = processors.ByteLevel(trim_offsets=True)
    tokenizer.post_processor = offsets
    if bos:
        begin = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
        tokenizer.post_processor = processors.Sequence([offsets, begin])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        bos_token=BOS if bos else END,
        unk_token=END,
        # Without this GPT-2 is handed token_type_ids, and adds them as word embeddings.
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Encode a piece of text without special tokens.

    Args:
        tokenizer: whose.
        text: the piece.
    """
    return cast(list[int], tokenizer.encode(text, add_special_tokens=False))
