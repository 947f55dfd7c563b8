"""How an example becomes a batch, and logits become a loss and a prediction."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import transformers

from deltatune.core.data import Example, TaskConfig, build_task
from deltatune.core.delta import LoRA, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Format, HeadFormat, PromptFormat, TextFormat, build_format

TEMPLATE = "*cls**sent_0*_it_was*mask*_.*sep+*"


def make_task(texts, label="positive", **settings):
    config = TaskConfig(**{"name": "t", "reader": "jsonl", "metric": "accuracy", "labels": ("negative", "positive"), **settings})
    examples = [Example((text,) if isinstance(text, str) else text, label, id=f"train-{i}") for i, text in enumerate(texts)]
    return build_task(config, examples, (), ())


@pytest.fixture(scope="module")
def words(reviews):
    """The example's tokenizer: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then one token a word."""
    return transformers.AutoTokenizer.from_pretrained(reviews.with_name("model"))


def ids(words, text):
    return words.convert_tokens_to_ids(text.split())


@pytest.mark.golden("combos", "forward.npz", "forward_config.json")
def test_the_loss_and_the_value_of_a_prompted_regression(golden, words):
    archive, bounds = golden("combos", "forward.npz"), golden.case("combos", "forward_config.json", "label_bounds")
    task = make_task(
        ["soup"], 1.0, metric="pearson", labels=None, regression=tuple(map(float, bounds)), template=TEMPLATE,
        label_words={"0": "dull", "1": "lovely"},
    )  # fmt: skip
    form = PromptFormat(task, words, 64)
    assert form.words.tolist() == ids(words, "dull lovely")
    logits = torch.randn(5, len(words), generator=torch.Generator().manual_seed(0))
    logits[:, form.words] = torch.tensor(archive["regression_loss/logits"]).float()
    labels = torch.tensor(archive["regression_loss/y"]).float()
    assert form.predict(logits) == pytest.approx(archive["regression_loss/prediction"].tolist(), rel=1e-4)
    loss = float(form.loss(logits, {"labels": labels}))
    assert loss == pytest.approx(float(archive["regression_loss/proper_kl_batchmean"]), rel=1e-5)
    # The published program averages over classes too and takes the exponential of the target (defect D5).
    log_p = logits[:, form.words].log_softmax(dim=1)
    target = torch.stack((1 - labels / 5, labels / 5), dim=1)
    published = (target.exp() * (target - log_p)).mean()
    assert float(published) == pytest.approx(float(archive["regression_loss/reference"]), rel=1e-5)


def test_a_pair_for_a_head(words):
    task = make_task([("the soup was cold .", "a lovely boat"), ("the", "boat")])
    form = HeadFormat(task, words, 10)
    first, second = form.features(task.train)
    # The longer text gives way: ten tokens with [CLS] and two [SEP].
    assert first["input_ids"] == [2, *ids(words, "the soup was cold"), 3, *ids(words, "a lovely boat"), 3]
    assert first["labels"] == second["labels"] == 1
    batch = form.collate([first, second])
    assert batch["input_ids"][1].tolist() == [2, *ids(words, "the"), 3, *ids(words, "boat"), 3, *[0] * 5]
    assert batch["attention_mask"].tolist() == [[1] * 10, [1] * 5 + [0] * 5]
    assert batch["labels"].tolist() == [1, 1]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert form.features([]) == []


def test_loss_and_prediction_of_a_head(words):
    form = HeadFormat(make_task(["soup"]), words, 10)
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    loss = form.loss(logits, {"labels": torch.tensor([0, 1])})
    assert float(loss) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert form.predict(logits) == [0, 0]  # the first of equals
    assert form.name_of(0) == "negative"
    assert form.references(form.task.train) == [1]


def test_a_regression_with_a_head(words):
    task = make_task(["soup"], 2.5, metric="mse", labels=None, regression=(0.0, 5.0))
    form = HeadFormat(task, words, 10)
    batch = form.collate(form.features(task.train))
    assert batch["labels"].dtype == torch.float32
    assert float(form.loss(torch.tensor([[4.0]]), batch)) == 2.25
    assert form.predict(torch.tensor([[4.0], [-1.0]])) == [4.0, -1.0]
    assert form.name_of(4.0) == 4.0


def test_a_prompt(words):
    task = make_task(
        ["the soup", "a"], template=TEMPLATE.replace("it", "story"), label_words={"positive": "lovely", "negative": "dull"}
    )
    form = PromptFormat(task, words, 64)
    first, second = form.features(task.train)
    shown = [2, *ids(words, "the soup"), *ids(words, "story was"), 4, *ids(words, "."), 3]
    assert first["input_ids"] == shown
    assert form.words.tolist() == ids(words, "dull lovely")  # in the order of the labels
    batch = form.collate([first, second])
    assert batch["input_ids"][1].tolist() == [2, *ids(words, "a"), *shown[3:], 0]
    assert ("token_type_ids" in batch) == ("token_type_ids" in words.model_input_names)
    logits = torch.full((1, len(words)), 50.0)  # what other words score does not count
    logits[0, form.words] = torch.tensor([0.0, math.log(3)])
    assert float(form.loss(logits, {"labels": torch.tensor([0])})) == pytest.approx(math.log(4))
    assert form.predict(logits) == [1]


def test_an_example_with_a_label_that_nobody_knows(words):
    form = HeadFormat(make_task(["soup"]), words, 10)
    with pytest.raises(DeltatuneError, match="example x of t has label 'neutral'; known labels: negative, positive"):
        form.features([Example(("soup",), "neutral", id="x")])
    assert "labels" not in form.features([Example(("soup",), None)])[0]


def gym_task(*examples):
    config = TaskConfig(name="talk", reader="gym", metric="EM")
    return build_task(config, [Example((text,), None, tuple(answers)) for text, answers in examples], (), ())


def test_texts_and_their_answers(tiny):
    task = gym_task(("good film", ["good", "very good", ""]), ("bad", ["bad"]))
    tokenizer = tiny("t5-text").tokenizer
    form = TextFormat(task, tokenizer, 20)
    first, second = form.features(task.train)
    encode = lambda text: tokenizer(text)["input_ids"]  # noqa: E731
    assert first["input_ids"] == encode(" [talk] good film")
    assert first["answers"] == [encode("<extra_id_0>good"), encode("<extra_id_0>very good"), encode("<extra_id_0>")]
    assert first["labels"] == first["answers"][0]
    assert first["answers"][2][-1] == tokenizer.eos_token_id  # even an empty answer ends
    batch = form.collate([{**first, "labels": first["answers"][1]}, second])
    short, long = len(second["labels"]), len(first["answers"][1])
    assert batch["labels"][1].tolist() == [*second["labels"], *[-100] * (long - short)]
    assert form.references(task.train) == [["good", "very good", ""], ["bad"]]
    assert form.features([]) == []
    answer = encode("<extra_id_0> very good")
    assert form.predict(torch.tensor([answer, [0] * len(answer)])) == ["very good", ""]


def test_every_answer_is_drawn_alike(tiny):
    task = gym_task(("good film", ["good", "very good", "great"]))
    form = TextFormat(task, tiny("t5-text").tokenizer, 20)
    [feature] = form.features(task.train)
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(tuple(form.choose(feature, generator)["labels"]) for _ in range(600))
    assert drawn.keys() == set(map(tuple, feature["answers"]))
    # Binomial with n = 600, p = 1/3: standard deviation 11.5.
    assert all(abs(count - 200) < 50 for count in drawn.values())
    assert feature["labels"] == feature["answers"][0]


def test_the_loss_of_texts_is_a_mean_over_tokens(tiny):
    form = TextFormat(gym_task(("a", ["b"])), tiny("t5-text").tokenizer, 20)
    logits = torch.zeros(2, 3, 4)
    logits[0, 0, 1] = math.log(3)
    labels = torch.tensor([[1, 2, 3], [2, -100, -100]])
    # p = 3/6 at the first token and 1/4 at the three others.
    assert float(form.loss(logits, {"labels": labels})) == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)


@pytest.mark.parametrize(("form", "kind"), [("bert-head", HeadFormat), ("bert-prompt", PromptFormat), ("t5-text", TextFormat)])
def test_the_form_of_the_model_decides(tiny, form, kind):
    backbone = tiny(form)
    task = make_task(["soup"], template=TEMPLATE, label_words={"negative": "bad", "positive": "good"})
    if form == "bert-prompt":
        vocabulary = backbone.tokenizer.get_vocab()
        known = [word for word in vocabulary if word.isalpha() and word.islower()][:2]
        task = replace(task, config=replace(task.config, label_words=dict(zip(("negative", "positive"), known, strict=True))))
    assert type(build_format(backbone, task)) is kind


def test_the_longest_text_leaves_room_for_prompts(tiny):
    task = make_task(["a " * 100])
    for name, positions in (("bert-head", 40), ("roberta-head", 38)):  # RoBERTa counts from 2
        for deltas, length in (((LoRA(),), positions), ((SoftPrompt(length=7),), positions - 7)):
            backbone = tiny(name)
            form = build_format(backbone, task, 256, deltas)
            batch = form.collate(form.features(task.train))
            assert batch["input_ids"].shape == (1, length)
            tuned = attach(backbone, *deltas)
            with torch.no_grad():
                assert torch.isfinite(tuned(batch)).all()
            tuned.detach()
    assert build_format(tiny("bert-head"), task, 256, (Prefix(length=9, positions="after"),)).max_length == 31
    assert build_format(tiny("t5-text"), task, 256, (SoftPrompt(),)).max_length == 256


def test_what_cannot_be_asked(tiny):
    task = make_task(["soup"])
    with pytest.raises(DeltatuneError, match="no tokenizer"):
        build_format(replace(tiny("bert-head"), tokenizer=None), task)
    with pytest.raises(DeltatuneError, match="form 'head' needs labels: give a text-to-text model"):
        build_format(tiny("bert-head"), gym_task(("a", ["b"])))
    with pytest.raises(DeltatuneError, match="has no template"):
        build_format(tiny("bert-prompt"), task)
    with pytest.raises(DeltatuneError, match=r"texts may have 3 tokens .*of 40 positions of the model the deltas take 37"):
        build_format(tiny("bert-head"), task, 256, (SoftPrompt(length=37),))


@pytest.mark.parametrize("form", ["bert-head", "roberta-prompt", "t5-text"])
def test_a_soft_prompt_that_no_template_shows_is_refused(tiny, form):
    backbone = tiny(form)
    letters = sorted(token for token in backbone.tokenizer.get_vocab() if token.startswith("Ġ") and token[1:].isalpha())
    known = dict(zip(("negative", "positive"), (token[1:] for token in letters), strict=False))
    task, deltas = make_task(["soup"], template=TEMPLATE, label_words=known), (SoftPrompt(2, position="template"),)
    with pytest.raises(DeltatuneError, match=r"shows no '\*prompt\*'; give another soft_prompt.position"):
        build_format(backbone, task, deltas=deltas)
    if form == "roberta-prompt":
        shown = replace(task, config=replace(task.config, template="*prompt*" + TEMPLATE))
        found = build_format(backbone, shown, deltas=deltas)
        assert found.features(shown.train)[0]["input_ids"][:2] == [-1, -2]


def test_a_form_that_says_too_little_cannot_be_made(words):
    class Asked(Format):
        def predict(self, output):
            return []

    with pytest.raises(TypeError, match=r"abstract methods? '?_encode'?(,| and) '?loss'?"):
        Asked(make_task(["soup"]), words, 10)
