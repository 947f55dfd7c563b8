"""The tokenizers of the world: one token for each word."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

from deltatune.core.world.language import Language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SENTINELS = 24
"""`<extra_id_0>` to `<extra_id_23>` of the tokenizer of text-to-text models."""


def tokenizer(form: Literal["head", "text"] = "head") -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words of the language, in lower case.

    `. , ? ! :` need no blank in front. The vocabularies of the two forms hold the words in the same order, and so do those of
    all seeds.

    Args:
        form: `head` for encoders, as RoBERTa: `<s> <pad> </s> <unk>` before the words, `<mask>` behind them; a text is
            `<s> text </s>`, a pair `<s> one </s> </s> two </s>`. `text` for text-to-text models, as T5: `<pad> </s> <unk>` before
            the words, the sentinels behind them, `<extra_id_0>` last; a text is `text </s>`.
    """
    # Seconds to import; tasks and documents do without.
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    sentinels = [f"<extra_id_{number}>" for number in reversed(range(SENTINELS))]
    before = ["<pad>", "</s>", "<unk>"] if form == "text" else ["<s>", "<pad>", "</s>", "<unk>"]
    behind = sentinels if form == "text" else ["<mask>"]
    ids = {token: number for number, token in enumerate([*before, *_vocabulary(), *behind])}
    words = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    words.normalizer = Lowercase()
    words.pre_tokenizer = Sequence([WhitespaceSplit(), Split(Regex(r"[.,](?![0-9])|[?!:]"), "isolated")])
    if form == "text":
        words.post_processor = TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", ids["</s>"])]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=words,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            additional_special_tokens=sentinels[::-1],
        )
    words.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, ids[token]) for token in ("<s>", "</s>")],
    )
    named = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
        **named,
    )


@cache
def _vocabulary() -> tuple[str, ...]:
    return tuple(Language().vocabulary)
