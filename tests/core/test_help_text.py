"""What `--help` shows a user who knows no Python."""

from __future__ import annotations

import pytest

REQUIRED = {
    "tune": "--out_dir OUT_DIR --model MODEL --task TASK --delta DELTA",
    "evaluate": "--run RUN",
    "predict": "--run RUN --input INPUT",
    "merge": "--run RUN --out_dir OUT_DIR",
    "distance": "--left LEFT --right RIGHT",
}


@pytest.mark.parametrize("name", REQUIRED)
def test_what_must_be_given_is_the_first_line_and_types_are_plain(name, command):
    text = command(name, "--help")
    assert text.splitlines()[0] == f"usage: deltatune {name} {REQUIRED[name]} [options]"
    words = " ".join(text.split())
    for python in ("<class", "Optional[", "Union[", "Literal[", "known subclasses", "default: )"):
        assert python not in words
    assert "An option with {true,false} given alone is true." in words


def test_types_and_choices_are_in_the_words_that_a_user_types(command):
    words = " ".join(command("tune", "--help").split())
    assert "(type: tensorboard | wandb | mlflow | null, default: null)" in words
    assert "--form {auto,head,prompt,text} how the task is asked: a classification head, label words at a mask" in words
    assert "or what suits the model. (default: auto)" in words
    assert "(type: int | tuple[int, ...] | null, default: null)" in words
    assert "--delta.help [CLASS_PATH_OR_NAME] the settings of one of them, such as LoRA, and exit" in words


def test_further_deltas_are_given_as_the_help_says(command):
    text = command(
        "tune", "--model", "m", "--task", "t", "--out_dir", "x", "--delta", "LoRA", "--also+", "BitFit", "--also+", "SoftPrompt",
        "--also.length", 3, "--print_config",
    )  # fmt: skip
    assert text.count("class_path: deltatune.core.") == 3
    assert "length: 3" in text
