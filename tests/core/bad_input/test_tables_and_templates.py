"""Tables, task files, configurations and templates that do not fit, through the command.

One line with what, where, which value and the way out, code 2, nothing written. `test_commands_refusals.py` has what is wrong
with options; a full disk and a killed run have files of their own.
"""

from __future__ import annotations

import shutil

import pytest

from deltatune.core.files import read_json, read_text, write_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "text\tlabel\na\tnegative\nb\tc\tpositive\n",
            "train.tsv line 3: 3 columns, expected 2 as in line 1, got 'b | c | positive'; look for a tab too many or too few",
        ),
        ("text\tlabel\na negative\n", "train.tsv line 2: 1 column, expected 2 as in line 1, got 'a negative'; look for a tab"),
        ("text\tlabel\na\tbad\n", "train.tsv line 2: unknown label 'bad'; known labels: negative, positive"),
        ("text\tlabel\na\t\n", "train.tsv line 2: unknown label ''; known labels: negative, positive"),
        ("text\tlabel\n", "train.tsv holds no examples; add some"),
        ("", "train.tsv is empty; add examples"),
        ("satz\tlabel\na\tnegative\n", "train.tsv line 1: no column 'text' in the header; columns: satz, label"),
        ("a\tb\n", "train.tsv line 1: none of the columns text, label in 'a, b'; add a header, or set text_positions"),
        (b"text\tlabel\na\tnegative\ncaf\xe9\tpositive\n", "train.tsv line 3: byte 0xe9 is not utf-8; convert the file first"),
        (None, "no train.tsv in"),
    ],
)
def test_a_table_that_cannot_be_read(table, untouched, text, message, tune):
    path = table / "train.tsv"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    line = untouched(*tune(table))
    assert message in line
    assert line.startswith("deltatune tune: error: ")


def test_lines_that_end_as_on_windows_are_no_error(table, command, tune):
    rows = read_text(table / "train.tsv")
    (table / "train.tsv").write_bytes(("\ufeff" + rows.replace("\n", "\r\n")).encode("utf-8"))
    command(*tune(table))
    facts = read_json(table.parent / "out" / "run.json")
    (table / "train.tsv").write_bytes(rows.encode("utf-8"))
    command(*tune(table, "--out_dir", table.parent / "unix"))
    assert facts["data"] == read_json(table.parent / "unix" / "run.json")["data"]


def test_too_few_examples_of_a_class(table, untouched, tune):
    message = "--shots 16: class negative of task has 1 examples, 32 are needed (as many again for development); lower --shots"
    assert message in untouched(*tune(table, "--shots", 16))
    words = ("fewshot", "--task", table / "task.yaml", "--data_dir", table, "--k", 16, "--seed", 0, "--out_dir", table / "few")
    line = untouched(*words)
    assert "class 'negative' has 1 rows in " in line
    assert line.endswith("train.tsv, 32 are needed for training and development; lower k\n")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "no such folder: {0}; give that of the files of task task as --data_dir"),
        ("train.tsv", "--data_dir {0} is a file; give the folder that holds it"),
        ("model", "task task: no train.tsv in {0}; give the folder that holds it as --data_dir"),
    ],
)
def test_a_data_dir_without_the_files(table, untouched, place, message, tune):
    assert message.format(table / place) in untouched(*tune(table, "--data_dir", table / place))


def test_a_data_dir_that_holds_the_files_or_their_folder(table, command, untouched, tune):
    shutil.copytree(table, table.parent / "data" / "RTE", ignore=shutil.ignore_patterns("model", "*.yaml", "*.jsonl"))
    for split in ("train", "dev", "test"):
        write_text(
            table.parent / f"data/RTE/{split}.tsv", "sentence1\tsentence2\tlabel\na\tb\tentailment\nc\td\tnot_entailment\n"
        )
    for place in ("data", "data/RTE"):
        words = tune(
            table, "--task", "glue/rte", "--data_dir", table.parent / place, "--out_dir", table.parent / f"of {place[4:]}"
        )
        command(*words)
    line = untouched(*tune(table, "--task", "glue/rte"))
    assert "task glue/rte reads files; give their folder as data_dir (--data_dir)" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrik: accuracy\n", "task.yaml: unknown key 'metrik'; did you mean 'metric'?"),
        ("metric: f1\n", "task.yaml line 6: the key 'metric' stands there twice; keep one of them"),
        ("label_words: {negative: a, negative: b}\n", "line 6: the key 'negative' stands there twice"),
        ("dev_is_test: maybe\n", "task.yaml: dev_is_test must be of type bool, got 'maybe'"),
        ("answers: [a]\n", "task.yaml: answers must be a mapping, got ['a']"),
        ("regression: [1]\n", "task.yaml: regression must be a list of 2 values, got [1]"),
        ("regression: [a, b]\n", "task.yaml: regression must be of type float, got 'a'"),
        ("text_positions: [a]\n", "task.yaml: text_positions must be of type int, got 'a'"),
        ("source_names: [yes]\n", "task.yaml: source_names must be of type str, got True; put it in quotes if it is a text"),
        ("extra_metrics: [akkuracy]\n", "task.yaml: task task: unknown metric 'akkuracy'; did you mean 'accuracy'?"),
        ("answers: {a: b\n", "task.yaml line 7: not YAML ("),
        ("hub: !!python/object/apply:os.system [exit]\n", "task.yaml line 6: could not determine a constructor for the tag"),
        ("hub: \x07\n", "task.yaml: not YAML ("),
    ],
)
def test_a_task_file_with_a_mistake(table, untouched, text, message, tune):
    write_text(table / "task.yaml", read_text(table / "task.yaml") + text)
    assert message in untouched(*tune(table))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  stepz: 3\n", "unknown option train.stepz; did you mean train.steps?"),
        ("modle: 3\n", "unknown option modle; did you mean model?"),
        ("train:\n  steps: many\n", "train.steps: expected int, got many"),
        ("lr: 0.1\nlr: 0.2\n", "c.yaml line 2: the key 'lr' stands there twice; keep one of them"),
        ("lr: [\n", "c.yaml line 2: not YAML ("),
        ("- lr\n", "c.yaml: expected `key: value` lines, got a list"),
    ],
)
def test_a_config_file_with_a_mistake(table, untouched, text, message, tune):
    write_text(table / "c.yaml", text)
    assert message in untouched(*tune(table, "--config", table / "c.yaml"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("*cls**sent_0**maks**sep+*", "unknown piece '*maks*' in '*cls**sent_0**maks**sep+*'; write '*mask*', or begin it with"),
        ("*cls**sent_0**sep+*", "ends without '*mask*'; add one"),
        ("*cls**sent_0**mask**mask**sep+*", "a second '*mask*' in"),
        ("*cls**sent_1**mask**sep+*", "template piece '*sent_1*': no text 1 among the 1 given (from 0)"),
    ],
)
def test_a_template_that_cannot_be_filled(table, untouched, template, message, tune):
    write_text(
        table / "task.yaml",
        read_text(table / "task.yaml") + f'template: "{template}"\nlabel_words: {{negative: dull, positive: lovely}}\n',
    )
    assert message in untouched(*tune(table, "--form", "prompt"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dull soup", "label word 'dull soup' of label 'negative' is not one token but 2: dull soup; choose a word that is one"),
        ("dulllll", "label word 'dulllll' of label 'negative' is unknown; choose a word that is one token"),
    ],
)
def test_a_label_word_that_is_not_one_token(table, untouched, word, message, tune):
    words = f"template: '*cls**sent_0**mask**sep+*'\nlabel_words: {{negative: {word}, positive: lovely}}\n"
    write_text(table / "task.yaml", read_text(table / "task.yaml") + words)
    assert message in untouched(*tune(table, "--form", "prompt"))
