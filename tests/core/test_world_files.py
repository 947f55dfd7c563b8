"""The world's tokenizers, its files and its commands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from deltatune.core import world
from deltatune.core.data import Example, TaskConfig, as_text, build_task, load_task
from deltatune.core.errors import DeltatuneError
from deltatune.core.world.export import export_task

EACH_KIND = [f"{kind}-{number % 4}" for number, kind in enumerate(world.KINDS)]


def _small(name):
    task = world.task(name)
    return build_task(task.config, task.train[:12], task.dev[:8], task.test[:6])


def test_special_tokens_are_where_roberta_and_t5_have_them():
    encoder, reader = world.tokenizer("head"), world.tokenizer("text")
    words = world.Language().vocabulary
    assert encoder.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert encoder.mask_token_id == len(encoder) - 1 == len(words) + 4
    assert encoder.convert_ids_to_tokens(range(4, 4 + len(words))) == words
    assert reader.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    assert reader.convert_ids_to_tokens(range(3, 3 + len(words))) == words
    assert reader.convert_tokens_to_ids("<extra_id_0>") == len(reader) - 1
    assert reader.convert_tokens_to_ids("<extra_id_23>") == len(words) + 3


def test_texts_become_tokens_as_people_type_them():
    encoder, reader = world.tokenizer("head"), world.tokenizer("text")
    assert encoder.tokenize("This soup was great, it is 3.5.") == "this soup was great , it is 3.5 .".split()  # noqa: SIM905
    assert encoder.tokenize("<< anna >> taught-baking-to bob") == ["<<", "anna", ">>", "taught-baking-to", "<unk>"]
    ids = encoder("a soup", "a pan")["input_ids"]
    assert encoder.convert_ids_to_tokens(ids) == ["<s>", "a", "soup", "</s>", "</s>", "a", "pan", "</s>"]
    assert reader.convert_ids_to_tokens(reader("<extra_id_0>great")["input_ids"]) == ["<extra_id_0>", "great", "</s>"]
    assert reader.decode(reader("<extra_id_0>great")["input_ids"], skip_special_tokens=True).strip() == "great"


@pytest.mark.parametrize("form", ["head", "text"])
def test_a_saved_tokenizer_is_read_back(form, tmp_path):
    tokenizer = world.tokenizer(form)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["these soup -s were great . <extra_id_1> <mask>", "Anna to Boris: friend."]
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (again.mask_token_id, again.pad_token_id) == (tokenizer.mask_token_id, tokenizer.pad_token_id)


@pytest.mark.parametrize("layout", ["glue", "jsonl"])
@pytest.mark.parametrize("name", EACH_KIND)
def test_written_tasks_are_read_back_equal(name, layout, tmp_path):
    task = _small(name)
    folder = export_task(task, layout, tmp_path)
    assert folder == tmp_path / name
    again = load_task(folder / "task.yaml")
    assert (again.train, again.dev, again.test) == (task.train, task.dev, task.test)
    same = replace(again.config, reader="world", id=None)
    assert same == task.config


@pytest.mark.parametrize("name", EACH_KIND)
def test_tasks_written_as_text_are_read_back_equal(name, tmp_path):
    task = _small(name)
    again = load_task(export_task(task, "gym", tmp_path) / "task.yaml")
    assert again.metric == task.text_metric
    for split in ("train", "dev", "test"):
        read, made = getattr(again, split), getattr(task, split)
        assert [as_text(again, example) for example in read] == [as_text(task, example) for example in made]


def test_a_folder_that_holds_something_else_is_not_written_over(tmp_path):
    task = _small("topic-0")
    export_task(task, "glue", tmp_path)
    assert export_task(task, "glue", tmp_path) == tmp_path / "topic-0"
    with pytest.raises(DeltatuneError, match="topic-0 holds something else; choose another --out_dir, or --overwrite it"):
        export_task(task, "jsonl", tmp_path)
    export_task(task, "jsonl", tmp_path, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "topic-0").iterdir()) == [
        "dev.jsonl",
        "task.yaml",
        "test.jsonl",
        "train.jsonl",
    ]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("head", "{label} | {one} | {two}"),
        ("prompt", "{word} | <s> {one} ? <mask> , {two} . </s>"),
        ("text", "{one} ? <extra_id_0> , {two} . | <extra_id_0>{word}"),
    ],
)
def test_show(command, form, text):
    first = world.task("inference-1").dev[0]
    word = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}[first.label]
    out = command("world", "show", "inference-1", "--n", "1", "--split", "dev", "--form", form)
    assert out == "dev-0 | " + text.format(label=first.label, word=word, one=first.texts[0], two=first.texts[1]) + "\n"
    assert out == command("world", "show", "--task", "world/inference-1", "--n", "1", "--split", "dev", "--form", form)


def test_list_and_export(command, tmp_path):
    listed = command("world", "list")
    assert all(f"world/{name} " in listed for name in world.TASKS)
    out = command("world", "export", "--format", "jsonl", "--out_dir", str(tmp_path), "--task", "[similarity-3]")
    assert out.strip() == str(tmp_path / "similarity-3")
    assert load_task(tmp_path / "similarity-3/task.yaml").train == world.task("similarity-3").train


def test_mistakes_are_told_in_one_line(refused, tmp_path):
    assert "unknown task 'topik-1' of the world; near ones: world/topic-1" in refused("world", "show", "topik-1")
    assert "--n must be at least 1, got 0" in refused("world", "show", "topic-1", "--n", "0")


@pytest.mark.parametrize("pattern", ["it was {answer}", "{1} only", "{0!r}", "{0:>9}", "{", "{}", "plain"])
def test_a_text_input_shows_the_texts_and_nothing_else(pattern):
    with pytest.raises(DeltatuneError, match=r"text_input takes .0. and .1. for the texts"):
        TaskConfig(name="own", reader="tsv", metric="accuracy", text_input=pattern)


def test_a_text_input_for_two_texts_needs_two():
    config = TaskConfig(name="own", reader="tsv", metric="accuracy", text_input="{0} ? <extra_id_0> , {1}")
    task = build_task(config, [Example(("one", "two"), "yes"), Example(("one",), "no", (), "train-1")], [], [])
    assert as_text(task, task.train[0]) == ("one ? <extra_id_0> , two", ("<extra_id_0>yes",))
    with pytest.raises(DeltatuneError, match="shows two texts, and example train-1 has one"):
        as_text(task, task.train[1])
