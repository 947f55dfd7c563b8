"""Makes this folder's example again: a generated sentiment task and a tiny encoder pre-trained on its sentences.

    uv run python examples/reviews/make.py

It is here so that the first command of the README needs no download. It takes about a minute and is a toy: nothing can be
learned from its numbers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
THINGS = ["soup", "bread", "boat", "chair", "coat", "film", "song", "room", "garden", "lamp", "story", "meal"]
GOOD = ["lovely", "warm", "splendid", "bright", "clever", "charming", "delightful", "superb"]
BAD = ["dull", "cold", "dreadful", "broken", "clumsy", "gloomy", "boring", "awful"]
AFTER = {"positive": ["smiled", "cheered", "laughed"], "negative": ["sighed", "frowned", "left"]}
FRAMES = [
    "the {thing} was {word} .",
    "we found the {thing} {word} and told everyone .",
    "a {word} {thing} , as my neighbour said .",
    "nobody expected such a {word} {thing} .",
    "the {thing} that they brought was {word} .",
    "i would call this {thing} {word} , not {other} .",
]


def sentences(count: int, seed: int) -> list[dict[str, str]]:
    """`count` distinct examples; in the last frame the denied word points the other way."""
    draw, seen = random.Random(seed), {}
    while len(seen) < count:
        label = draw.choice(["negative", "positive"])
        words, others = (GOOD, BAD) if label == "positive" else (BAD, GOOD)
        parts = {"thing": draw.choice(THINGS), "word": draw.choice(words), "other": draw.choice(others)}
        seen[draw.choice(FRAMES).format(**parts)] = label
    return [{"text": text, "label": label} for text, label in seen.items()]


def corpus(rows: list[dict[str, str]], seed: int) -> list[str]:
    """The sentences with what people did next, which is how pre-training learns that some words are alike; no label in it."""
    draw = random.Random(seed)
    return [f"{row['text']} so we {draw.choice(AFTER[row['label']])} ." for row in rows for _ in range(3)]


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """One token a word."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in texts for word in text.split()})]
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    base.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=base, model_max_length=64, **special)


def pretrain(texts: list[str], words: PreTrainedTokenizerFast, steps: int = 1500) -> BertForMaskedLM:
    """Masked-language modelling on the sentences, 15% of the words masked."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    model = BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    draw = random.Random(0)
    for _ in range(steps):
        batch = words(draw.sample(texts, 32), padding=True, return_tensors="pt")
        inner = batch["input_ids"] > words.mask_token_id
        hidden = inner & (torch.rand(inner.shape) < 0.15)
        labels = batch["input_ids"].masked_fill(~hidden, -100)
        batch["input_ids"] = batch["input_ids"].masked_fill(hidden, words.mask_token_id)
        if hidden.any():
            model(**batch, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


def main() -> None:
    """Write task files and model."""
    examples = sentences(900, seed=0)
    parts = {"train": examples[:500], "dev": examples[500:700], "test": examples[700:]}
    for name, rows in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")
    texts = corpus(parts["train"], seed=1)
    words = tokenizer([*texts, *(row["text"] for row in examples)])
    model = pretrain(texts, words)
    model.half().save_pretrained(HERE / "model")
    words.save_pretrained(HERE / "model")


if __name__ == "__main__":
    main()
