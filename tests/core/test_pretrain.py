"""Pre-training in memory: models, losses, resuming, probes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.nn.functional import cross_entropy
from transformers.optimization import Adafactor as Published

from deltatune.core.backbone import BackboneConfig
from deltatune.core.corpus import Document
from deltatune.core.data import Example, Task, TaskConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.loading import load_backbone
from deltatune.core.optim import OptimizerConfig, build_optimizer, schedule
from deltatune.core.pretraining import (
    MaskedLM,
    PretrainConfig,
    PretrainHooks,
    Probe,
    Sizes,
    SpanCorruption,
    build_model,
    pretrain,
    save_model,
)
from deltatune.core.pretraining.objectives import Places, batches_for, masked_loss
from deltatune.core.pretraining.stream import Stream

SMALL = Sizes(layers=1, width=16, heads=2, feed_forward=24, positions=24)
QUIET = PretrainHooks(progress=False)


@pytest.fixture(scope="module")
def words() -> transformers.PreTrainedTokenizerBase:
    """A tokenizer of the words w0 ... w29 that serves both forms."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
    ids = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(30))])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"],
        **{f"{name}_token": token for name, token in names.items()},
    )


def _documents(seed: int) -> Iterator[Document]:
    """One word again and again: easy to learn."""
    drawn = np.random.default_rng(seed)
    while True:
        first, length = drawn.integers(30), drawn.integers(4, 10)
        yield Document(" ".join([f"w{first}"] * length), (0.3,) * int(length))


MLM = PretrainConfig(
    MaskedLM(pack=False, max_length=12, shift=8),
    steps=12,
    optimizer=OptimizerConfig(lr=1e-2, betas=(0.9, 0.98), warmup=2, floor=0.05),
    batch_tokens=200,
    save_every=5,
)
SPAN = PretrainConfig(
    SpanCorruption(words=(1, 2), pack=False, max_length=12),
    steps=12,
    optimizer=OptimizerConfig(name="adafactor", scale_parameter=True, lr=5e-2, warmup=2),
    batch_tokens=200,
    mixture=0.25,
    mixture_size=5,
    save_every=5,
)
CONFIGS = {"prompt": MLM, "text": SPAN}


def _examples(seed: int) -> Iterator[tuple[str, str]]:
    drawn = np.random.default_rng(seed)
    while True:
        word = drawn.integers(30)
        yield f"w{word} <extra_id_0>", f"<extra_id_0> w{word}"


def _fresh(form, words, seed=0):
    backbone = build_model(form, SMALL, words, seed)
    return backbone, {"examples": _examples} if form == "text" else {}


def _weights(backbone):
    return {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}


def _same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("form", CONFIGS)
def test_a_fresh_model_is_a_function_of_its_seed(form, words):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = _weights(build_model(form, SMALL, words, 7))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert _same(_weights(build_model(form, SMALL, words, 7)), first)
    assert not _same(_weights(build_model(form, SMALL, words, 8)), first)


def test_sizes_of_fresh_models(words):
    model = build_model("prompt", Sizes(), words, 0).model
    # Embeddings 38 + 130 positions + 1 type, 3 blocks, head with tied output.
    block = 4 * (96 * 96 + 96) + 2 * 96 * 384 + 384 + 96 + 4 * 96
    expected = (38 + 130 + 1) * 96 + 2 * 96 + 3 * block + (96 * 96 + 96) + 2 * 96 + 38
    assert sum(p.numel() for p in model.parameters()) == expected
    text = build_model("text", Sizes(2, 96, 3, 192), words, 0).model
    attention, forward = 4 * 96 * 96, 3 * 96 * 192
    stack = 2 * (attention + forward + 2 * 96) + 32 * 3 + 96
    assert sum(p.numel() for p in text.parameters()) == 2 * 38 * 96 + 2 * stack + 2 * (attention + 96)
    head = text.lm_head.weight
    assert head is not text.shared.weight
    assert (head.std().item(), text.shared.weight.std().item()) == pytest.approx((96**-0.5, 1.0), rel=0.05)
    assert text.config.scale_decoder_outputs is False
    with pytest.raises(DeltatuneError, match="no multiple of heads"):
        Sizes(width=10, heads=3)


def test_the_head_at_hidden_places_gives_the_loss_of_the_whole(words):
    backbone, _ = _fresh("prompt", words)
    vocabulary, collate, length = batches_for(backbone, MLM.objective)
    batch = Stream(_documents, MLM, vocabulary, length, collate).micro_batches(0)[0].batch
    places = Places(backbone.model.get_submodule(backbone.sites.lm_head))
    lean = masked_loss(backbone.model, places, batch)
    places.handle.remove()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    logits = backbone.model(**inputs).logits
    whole = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    assert lean.item() == pytest.approx(whole.item(), rel=1e-6)
    assert logits.shape[:2] == batch["labels"].shape


def test_positions_are_shifted_after_the_first_token(words):
    backbone, _ = _fresh("prompt", words)
    vocabulary, collate, length = batches_for(backbone, MLM.objective)
    stream = Stream(_documents, MLM, vocabulary, length, collate)
    offsets = set()
    for step in range(20):
        batch = stream.micro_batches(step)[0].batch
        for ids, positions, real in zip(batch["input_ids"], batch["position_ids"], batch["attention_mask"].bool(), strict=True):
            assert (ids[0], positions[0]) == (words.cls_token_id, 2)
            assert (positions[~real] == 1).all()
            rest = positions[real][1:]
            assert (rest.diff() == 1).all()
            offsets.add(int(rest[0]) - 3)
    assert offsets == set(range(9))


def test_rows_that_leave_no_room_for_the_shift_are_refused(words):
    backbone, _ = _fresh("prompt", words)
    config = PretrainConfig(MaskedLM(max_length=20, shift=8))
    with pytest.raises(DeltatuneError, match="has 24 positions; rows of 20 tokens shifted by 8 do not fit"):
        pretrain(config, backbone, _documents, hooks=QUIET)
    assert batches_for(backbone, MaskedLM(shift=8))[2] == 16
    with pytest.raises(DeltatuneError, match="objective span needs the form text, and it has prompt"):
        pretrain(SPAN, backbone, _documents, examples=_examples, hooks=QUIET)


@pytest.mark.parametrize("form", CONFIGS)
def test_an_interrupted_run_ends_with_the_same_weights(form, words, tmp_path):
    config = CONFIGS[form]
    whole, more = _fresh(form, words)
    history = pretrain(config, whole, _documents, **more, hooks=QUIET)

    class InterruptedHereError(Exception):
        pass

    def stop(step):
        raise InterruptedHereError

    cut, more = _fresh(form, words)
    halved = PretrainConfig(**{**vars(config), "snapshots": (7,)})
    with pytest.raises(InterruptedHereError):
        pretrain(halved, cut, _documents, **more, hooks=PretrainHooks(on_snapshot=stop, state_dir=tmp_path, progress=False))
    resumed, more = _fresh(form, words, seed=3)
    hooks = PretrainHooks(state_dir=tmp_path, progress=False)
    again = pretrain(halved, resumed, _documents, **more, hooks=hooks, resume_from=tmp_path)
    assert again.losses == history.losses
    assert _same(_weights(resumed), _weights(whole))
    assert not any(parameter.requires_grad for parameter in resumed.model.parameters())
    assert not resumed.model.training


@pytest.mark.parametrize("form", CONFIGS)
def test_training_lowers_the_loss(form, words):
    backbone, more = _fresh(form, words)
    before = backbone.digest
    config = PretrainConfig(**{**vars(CONFIGS[form]), "steps": 60, "mixture": 0.0})
    losses = pretrain(config, backbone, _documents, **more, hooks=QUIET).losses
    assert losses[0] > 3.0
    assert sum(losses[-5:]) / 5 < 3.1  # ln 30 = 3.4 is what the words' frequencies alone give
    assert backbone.digest != before


@pytest.mark.parametrize("form", CONFIGS)
def test_bf16_stays_close(form, words):
    losses = []
    for precision in ("fp32", "bf16"):
        backbone, more = _fresh(form, words)
        config = PretrainConfig(**{**vars(CONFIGS[form]), "steps": 4, "precision": precision})
        losses.append(pretrain(config, backbone, _documents, **more, hooks=QUIET).losses)
        assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


def _task() -> Task:
    config = TaskConfig(
        name="follow", reader="jsonl", metric="accuracy", labels=("a", "b"), template="*cls**sent_0**mask**sep+*",
        label_words={"a": "w1", "b": "w2"},
    )  # fmt: skip
    dev = tuple(Example((f"w{i % 2} w{i % 2}",), "ab"[i % 2]) for i in range(10))
    return Task(config=config, labels=("a", "b"), train=dev, dev=dev, test=(), digest="")


@pytest.mark.parametrize("form", CONFIGS)
def test_probes_score_label_words_zero_shot(form, words):
    backbone, more = _fresh(form, words)
    seen = []
    hooks = PretrainHooks(on_scores=lambda step, scores: seen.append((step, scores["follow"])), progress=False)
    config = PretrainConfig(**{**vars(CONFIGS[form]), "steps": 6, "probe_every": 4})
    history = pretrain(config, backbone, _documents, **more, probes=[Probe.of(backbone, _task())], hooks=hooks)
    assert [step for step, _ in seen] == [0, 4, 6]
    assert [value for _, value in history.evaluations] == [scores.value for _, scores in seen[1:]]
    assert seen[0][1].n == 10
    model, scores = backbone.model, Probe.of(backbone, _task()).scores()
    if form == "text":
        row = torch.tensor([[0, 8, 8, 5, 2]])
        logits = model(input_ids=row, decoder_input_ids=torch.tensor([[1, 5]])).logits[0, 1]
    else:
        logits = model(input_ids=torch.tensor([[0, 8, 8, 4, 2]])).logits[0, 3]
    assert scores.predictions[0] == int(logits[[9, 10]].argmax())


@pytest.mark.parametrize("form", CONFIGS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_is_saved_is_loaded(form, precision, words, tmp_path):
    backbone, _ = _fresh(form, words)
    save_model(backbone, tmp_path / "model", precision)
    there = load_backbone(BackboneConfig(str(tmp_path / "model"), form=form, device="cpu"))
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    for name, tensor in there.model.named_parameters():
        own = backbone.model.get_parameter(name)
        assert torch.equal(tensor, own.half().float() if precision == "fp16" else own), name
    assert getattr(there.model.config, "scale_decoder_outputs", False) is False
    assert there.tokenizer.get_vocab() == words.get_vocab()


def test_weights_too_large_for_half_precision_are_refused(words, tmp_path):
    backbone, _ = _fresh("prompt", words)
    next(backbone.model.parameters()).data[0, 0] = 1e5
    with pytest.raises(DeltatuneError, match="holds numbers above 65504"):
        save_model(backbone, tmp_path / "model", "fp16")


def test_adafactor_by_configuration_is_the_published_one():
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    config = OptimizerConfig(name="adafactor", scale_parameter=True, lr=1.5e-2)
    one = build_optimizer({"w": ours}, config)
    other = Published([theirs], lr=1.5e-2, scale_parameter=True, relative_step=False, warmup_init=False)
    for step in range(5):
        for parameter, optimizer in ((ours, one), (theirs, other)):
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_the_linear_schedule_ends_at_its_floor():
    config = OptimizerConfig(lr=1.0, warmup=100, floor=0.05)
    assert [schedule(config, step, 1100) for step in (0, 50, 100, 600, 1100)] == pytest.approx([0, 0.5, 1, 0.525, 0.05])
    with pytest.raises(DeltatuneError, match=r"optimizer.floor must be from 0 to 1, got 2"):
        OptimizerConfig(floor=2)
    with pytest.raises(DeltatuneError, match="belongs to adafactor"):
        OptimizerConfig(scale_parameter=True)
