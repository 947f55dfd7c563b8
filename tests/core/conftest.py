"""Tiny real models, in memory and on disk, and what the contract every delta keeps is checked with."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltatune.core import checkpoint
from deltatune.core.backbone import Backbone, untie, wrap
from deltatune.core.delta import BitFit, DeltaConfig, Full, Head, Houlsby, LoRA, Modules, Prefix, SoftPrompt, Tuned, attach
from deltatune.core.sites import read_sites

GOLDEN = Path(__file__).parents[1] / "golden" / "combos"
WORDS = "the a movie was great good bad terrible and not it is this film very plain".split()  # noqa: SIM905

BERT_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.2,
    "num_labels": 3,
}
T5_SIZES = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 6,  # heads * d_kv need not equal d_model
    "d_ff": 24,
    "num_heads": 2,
    "num_layers": 2,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
LLAMA_SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "attention_dropout": 0.1,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 3,
}
LLAMA_SITES = Path(__file__).parents[2] / "examples" / "sites" / "llama.yaml"

BACKBONES = ("roberta-head", "roberta-prompt", "bert-head", "bert-prompt", "t5-text", "t5v11-text", "llama-head")
CONFIGS: dict[str, DeltaConfig] = {
    "lora": LoRA(rank=2, dropout=0.5),
    "houlsby": Houlsby(width=3),
    "houlsby-zero": Houlsby(width=3, init_std=0.0),
    "prefix": Prefix(length=3, width=4),
    "prefix-plain": Prefix(length=2, width=None, layout="split"),
    "soft-prompt": SoftPrompt(length=3),
    "bitfit": BitFit(),
    "full": Full(),
    "modules": Modules(patterns=("*orm*weight", "*.0.*.weight")),
    "head": Head(),
}


def _build(name: str) -> transformers.PreTrainedModel:
    family, _, form = name.partition("-")
    if family == "t5":
        return transformers.T5ForConditionalGeneration(transformers.T5Config(feed_forward_proj="relu", **T5_SIZES))
    if family == "t5v11":
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(feed_forward_proj="gated-gelu", **T5_SIZES))
        torch.nn.init.normal_(untie(model).lm_head.weight, std=0.3)
        return model
    if family == "llama":
        kind = {"head": transformers.LlamaForSequenceClassification, "causal": transformers.LlamaForCausalLM}[form]
        return kind(transformers.LlamaConfig(**LLAMA_SIZES))
    if family == "bert":
        kind = {"head": transformers.BertForSequenceClassification, "prompt": transformers.BertForMaskedLM}[form]
        return kind(transformers.BertConfig(vocab_size=149, max_position_embeddings=40, **BERT_SIZES))
    kind = {"head": transformers.RobertaForSequenceClassification, "prompt": transformers.RobertaForMaskedLM}[form]
    sizes = {"vocab_size": 553, "max_position_embeddings": 40, "type_vocab_size": 1, "pad_token_id": 1}
    return kind(transformers.RobertaConfig(bos_token_id=0, eos_token_id=2, **sizes, **BERT_SIZES))


def _word_tokenizer(special: list[str], **named: str) -> transformers.PreTrainedTokenizerFast:
    """Words of `WORDS`, one token each; `</s>` at the end."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    end = special.index("</s>")
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", end)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", **named)


def _tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    family = name.partition("-")[0]
    if family == "roberta":
        return transformers.AutoTokenizer.from_pretrained(GOLDEN / "tokenizer")
    if family == "bert":
        return transformers.AutoTokenizer.from_pretrained(GOLDEN / "bert_tokenizer")
    if family == "llama":
        return _word_tokenizer(["<unk>", "<s>", "</s>"], bos_token="<s>")
    return _word_tokenizer(["<pad>", "</s>", "<unk>"], pad_token="<pad>")


@pytest.fixture
def two_cores(monkeypatch):
    """Two processes may run, whatever this machine has."""
    monkeypatch.setattr("deltatune.core.pool.cores", lambda: 2)


@pytest.fixture(scope="session")
def llama_sites() -> Path:
    """A record as a user writes it for an architecture that deltatune does not know."""
    return LLAMA_SITES


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], transformers.PreTrainedModel]:
    """`tiny_model(name)`: a fresh copy of one tiny transformers model; equal at every call."""
    built: dict[str, transformers.PreTrainedModel] = {}

    def make(name: str) -> transformers.PreTrainedModel:
        if name not in built:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(11)
                model = _build(name).eval()
                for parameter in model.parameters():  # biases and norms away from 0 and 1, so that no part hides behind them
                    parameter.data += 0.1 * torch.randn(parameter.shape)
            built[name] = model
        return copy.deepcopy(built[name])

    return make


@pytest.fixture(scope="session")
def tiny(tiny_model, llama_sites) -> Callable[..., Backbone]:
    """`tiny(name, **fields)`: a `Backbone` around a fresh copy, form after the dash of the name."""
    tokenizers = {name: _tokenizer(name) for name in BACKBONES}

    def make(name: str, **fields) -> Backbone:
        if name.startswith("llama"):
            fields["sites"] = read_sites(llama_sites)
        form = {"causal": "head"}.get(name.partition("-")[2], name.partition("-")[2])
        return wrap(tiny_model(name), tokenizers.get(name), name=name, form=form, **fields)

    return make


@pytest.fixture(scope="session")
def folders(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """Every tiny model as `save_pretrained` writes it, tokenizer included."""
    root = tmp_path_factory.mktemp("models")
    for name in BACKBONES:
        tiny_model(name).save_pretrained(root / name)
        _tokenizer(name).save_pretrained(root / name)
    return {name: root / name for name in BACKBONES}


@pytest.fixture
def folder(folders, tmp_path) -> Callable[..., Path]:
    """`folder(name, new)`: a copy of a tiny model's folder that a test may damage."""
    return lambda name, new="model": shutil.copytree(folders[name], tmp_path / new)


@pytest.fixture(scope="session")
def batch_for() -> Callable[..., dict[str, Tensor]]:
    """`batch_for(name, lengths)`: token ids padded on the right, mask, labels; the mask token where the form asks for one."""

    def make(name: str, lengths: tuple[int, ...] = (7, 4, 6)) -> dict[str, Tensor]:
        family, _, form = name.partition("-")
        pad = {"roberta": 1, "bert": 0, "llama": 3}.get(family, 0)
        generator = torch.Generator().manual_seed(5)
        ids = torch.full((len(lengths), max(lengths)), pad)
        labels = torch.full((len(lengths), 5), -100)
        for row, length in enumerate(lengths):
            ids[row, :length] = torch.randint(6, 40, (length,), generator=generator)
            labels[row, : 5 - row] = torch.randint(2, 40, (5 - row,), generator=generator)
            if form == "prompt":
                ids[row, 1 + row % 2] = 4
        batch = {"input_ids": ids, "attention_mask": (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()}
        return batch | {"labels": labels if form == "text" else torch.arange(len(lengths)) % 3}

    return make


@pytest.fixture(scope="session")
def loss_of() -> Callable[[Tensor, Tensor], Tensor]:
    """The mean cross-entropy of logits (..., C) against labels, -100 ignored."""
    return lambda logits, labels: cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100)


@pytest.fixture(scope="session")
def stir() -> Callable[..., dict[str, Tensor]]:
    """`stir(tuned, seed)`: load its weights plus noise, so that every delta acts; returns what was loaded."""

    def change(tuned: Tuned, seed: int = 3, std: float = 0.1) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        weights = {name: w + std * torch.randn(w.shape, generator=generator).to(w.device) for name, w in tuned.weights().items()}
        tuned.load(weights)
        return weights

    return change


@pytest.fixture
def saved_as(tiny, stir, tmp_path) -> Callable[..., tuple[Path, Tuned]]:
    """`saved_as(name, *configs)`: a stirred delta as a folder, and the tuned model."""

    def make(name: str, *configs: DeltaConfig, **settings: Any) -> tuple[Path, Tuned]:
        tuned = attach(tiny(name), *configs, **settings)
        stir(tuned)
        checkpoint.save(tmp_path / "delta", tuned)
        return tmp_path / "delta", tuned

    return make


@pytest.fixture(scope="session")
def roberta() -> transformers.PreTrainedTokenizerBase:
    """The small tokenizer of RoBERTa's kind that the reference vectors were made with."""
    return _tokenizer("roberta")


@pytest.fixture(scope="session")
def bert() -> transformers.PreTrainedTokenizerBase:
    """The same of BERT's kind."""
    return _tokenizer("bert")


@pytest.fixture(scope="session")
def configs() -> dict[str, DeltaConfig]:
    """The settings behind the parameters of `config`."""
    return CONFIGS


@pytest.fixture(params=BACKBONES)
def name(request) -> str:
    """Every backbone in every form."""
    return request.param


@pytest.fixture(params=CONFIGS)
def config(request, name) -> DeltaConfig:
    """Every delta; the task head alone only where the form has one."""
    if request.param == "head" and not name.endswith("-head"):
        pytest.skip("this form has no task head")
    return CONFIGS[request.param]


@pytest.fixture
def tuned(tiny, name, config) -> Tuned:
    """The delta attached to the backbone with seed 1."""
    return attach(tiny(name), config, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch(batch_for, name) -> dict[str, Tensor]:
    """Three examples of different length."""
    return batch_for(name)


@pytest.fixture(scope="session")
def reviews(few_reviews) -> Path:
    """The task file of the bundled example, with few examples."""
    return few_reviews(train=24, dev=12, test=13) / "task.yaml"


@pytest.fixture(scope="session")
def tune_reviews(reviews) -> list[str]:
    """The words of a short `deltatune tune` on the example; a delta and an --out_dir are to be added."""
    words = ["tune", "--model", reviews.with_name("model"), "--task", reviews, "--device", "cpu"]
    return [*map(str, words), "--train.steps", "4", "--train.batch_size", "8"]
