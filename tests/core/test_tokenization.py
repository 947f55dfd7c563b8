"""A T5 folder that holds a SentencePiece model alone, as those of v1.1 and the LM-adapted models do."""

from __future__ import annotations

import json

from transformers import AutoTokenizer


def test_t5_tokens_of_inputs_and_answers(golden, tmp_path):
    vectors = golden("subspace", "t5_tokenization.json")
    model = golden("subspace", "t5_tokenization_model.npz")["sentencepiece_model"]
    (tmp_path / "spiece.model").write_bytes(model.tobytes())
    settings = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 100,
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == vectors["vocab_size"]
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == vectors["extra_id_0"] == len(tokenizer) - 1
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (vectors["pad"], vectors["eos"], vectors["unk"])
    for kind in ("input", "output"):
        encoded = tokenizer(vectors[f"{kind}s"], padding="max_length", truncation=True, max_length=vectors[f"{kind}_max_length"])
        assert encoded["input_ids"] == vectors[f"{kind}_ids"]
        assert encoded["attention_mask"] == vectors[f"{kind}_attention_mask"]
    # The sentinel is followed by a piece that begins a word, and is dropped with the other special tokens.
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in vectors["output_ids"]] == vectors["output_tokens"]
    decoded = tokenizer.batch_decode([[0, *ids] for ids in vectors["output_ids"]], skip_special_tokens=True)
    assert [text.strip() for text in decoded] == vectors["decoded_skip_special_stripped"]
