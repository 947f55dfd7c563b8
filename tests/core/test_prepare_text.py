"""`deltatune prepare --format gym`: the input text and answers of every question answering task, and few-shot samples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from deltatune.core.cli import main
from deltatune.core.data import load_task, read_task_file
from deltatune.core.data.recipe import find_recipe, recipe_names

ROOT = Path(__file__).parents[2]

TEXT_LABEL = {"text": ["one", "two"], "label": ["A", "B"]}
# Task -> a row with the columns of the public data set, the line without its end.
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "adversarialqa": (
        {
            "id": "1",
            "title": "t",
            "question": "Who?",
            "context": "It was Ann.",
            "answers": {"text": ["Ann", "An"], "answer_start": [7, 7]},
        },
        "question: Who? context: It was Ann.\tAnn",
    ),
    "superglue-record": (
        {"passage": "Ann met Bo.", "query": "@placeholder met Bo", "entities": ["Ann", "Bo"], "answers": ["Ann", "Anna"]},
        "question: @placeholder met Bo context: Ann met Bo.\tAnn",
    ),
    "hotpot_qa": (
        {
            "question": "Where?",
            "answer": "Rome",
            "supporting_facts": {"title": ["B", "C"], "sent_id": [0, 0]},
            "context": {"title": ["A", "B", "C"], "sentences": [["No."], ["Bo went.", " Far."], ["Rome."]]},
        },
        "question: Where? context: Bo went. Far.Rome.\tRome",
    ),
    "ai2_arc": (
        {"question": "Q?", "choices": {"text": ["one", "two"], "label": ["1", "2"]}, "answerKey": "2"},
        "Q? (A) one (B) two\ttwo",
    ),
    "commonsense_qa": ({"question": "Q?", "choices": TEXT_LABEL, "answerKey": "A"}, "Q? (A) one (B) two\tone"),
    "openbookqa": ({"question_stem": "Q", "choices": TEXT_LABEL, "answerKey": "B"}, "Q (A) one (B) two\ttwo"),
    "qasc": ({"question": "Q?", "choices": TEXT_LABEL, "answerKey": "B"}, "Q? (A) one (B) two\ttwo"),
    "quartz-no_knowledge": ({"question": "Q?", "para": "P.", "choices": TEXT_LABEL, "answerKey": "B"}, "Q? (A) one (B) two\ttwo"),
    "quartz-with_knowledge": (
        {"question": "Q?", "para": "P.", "choices": TEXT_LABEL, "answerKey": "B"},
        "Q?P. (A) one (B) two\ttwo",
    ),
    "codah": (
        {"question_propmt": "S", "candidate_answers": ["one", "two"], "correct_answer_idx": 1},
        "S (A) one (B) two\ttwo",
    ),
    "hellaswag": ({"ctx": "C", "endings": ["one", "two"], "label": "1"}, "C (A) one (B) two\ttwo"),
    "swag": (
        {"startphrase": "S", "ending0": "a", "ending1": "b", "ending2": "c", "ending3": "d", "label": 3},
        "S (A) a (B) b (C) c (D) d\td",
    ),
    "superglue-copa": (
        {"premise": "P.", "choice1": "one", "choice2": "two", "question": "cause", "label": 0},
        "P. (A) one (B) two\tone",
    ),
    "wino_grande": ({"sentence": "S _.", "option1": "one", "option2": "two", "answer": "2"}, "S _. (A) one (B) two\ttwo"),
    "cosmos_qa": (
        {"context": "C.", "question": "Q?", "answer0": "a", "answer1": "b", "answer2": "c", "answer3": "d", "label": 2},
        "Q? [SEP] C. [SEP]  (A) a (B) b (C) c (D) d\tc",
    ),
    "dream": (
        {"dialogue": ["W: Hi.", "M: Bye."], "question": "Q?", "choice": ["one", "two"], "answer": "two"},
        "Q? [SEP] W: Hi. M: Bye. [SEP]  (A) one (B) two\ttwo",
    ),
    "quail": (
        {"context": "C.", "question": "Q?", "answers": ["one", "two"], "correct_answer_id": 0},
        "Q? (A) one (B) two [SEP] C.\tone",
    ),
    "race-high": (
        {"article": "C.", "question": "Q?", "options": ["one", "two"], "answer": "B"},
        "Q? (A) one (B) two [SEP] C.\ttwo",
    ),
    "race-middle": (
        {"article": "C.", "question": "Q?", "options": ["one", "two"], "answer": "A"},
        "Q? (A) one (B) two [SEP] C.\tone",
    ),
    "wiqa": (
        {
            "question_stem": "Q?",
            "question_para_step": ["One.", "Two."],
            "choices": {"text": ["more", "less", "no effect"], "label": ["A", "B", "C"]},
            "answer_label_as_choice": "C",
        },
        "Q? (A) more (B) less (C) no effect [SEP] One. Two.\tno effect",
    ),
    "quarel": ({"question": "Which? (A) one (B) two", "answer_index": 1}, "Which? (A) one (B) two\ttwo"),
    "boolq": (
        {"question": "is ice cold", "passage": "Ice is.", "answer": True},
        "question: is ice cold [SEP] context: Ice is.\tyes",
    ),
    "mc_taco": ({"sentence": "S.", "question": "Q?", "answer": "a day", "label": 0}, "S. [SEP] Q? [SEP] a day\tno"),
    "eli5-askh": (
        {"title": "Why  so?", "selftext": "I\nask.", "answers": {"text": ["So.\n\nYes.", "No."], "score": [2, 1]}},
        "Why so? [SEP] I ask.\tSo. Yes.\tNo.",
    ),
    "eli5-asks": ({"title": "T", "selftext": "", "answers": {"text": ["a", "b"]}}, "T [SEP]\ta\tb"),
    "eli5-eli5": ({"title": "T", "selftext": "s", "answers": {"text": ["a"]}}, "T [SEP] s\ta"),
    "lama-conceptnet": ({"masked_sentence": "Ice is [MASK].", "obj_label": "cold"}, "Ice is [MASK].\tcold"),
    "lama-google_re": ({"masked_sentence": "Bo was born in [MASK].", "obj_label": "Rome"}, "Bo was born in [MASK].\tRome"),
    "numer_sense": ({"sentence": "A bird has <mask> legs.", "target": "two"}, "A bird has [MASK] legs.\ttwo"),
    "search_qa": ({"question": "Q", "category": "K", "answer": "a"}, "question: Qcategory: K\ta"),
    "web_questions": ({"url": "u", "question": "who?", "answers": ["Ann", "Bo"]}, "who?\tAnn\tBo"),
    "amazon_polarity": ({"title": "T", "content": "C", "label": 1}, "title: T [SEP] content: C\tpositive"),
    "rotten_tomatoes": ({"text": "dull", "label": 0}, "dull\tnegative"),
    "ag_news": ({"text": "News", "label": 3}, "News\tSci/Tech"),
    "trec": ({"text": "Who ?", "coarse_label": "HUM", "fine_label": 1}, "Who ?\thuman"),
    "tweet_eval-irony": ({"text": "great", "label": 1}, "great\tirony"),
    "tweet_eval-stance_climate": ({"text": "t", "label": 2}, "t\tfavor"),
}


def source(folder: Path, row: dict[str, Any], split: str = "train", count: int = 20) -> Path:
    datasets.DatasetDict({split: datasets.Dataset.from_list([row] * count)}).save_to_disk(str(folder))
    return folder


def prepare(*words: object) -> int:
    return main(["prepare", "--format", "gym", *map(str, words)])


SPLITS = {"mc_taco": "validation", "eli5-askh": "train_askh", "eli5-asks": "train_asks", "eli5-eli5": "train_eli5"}


@pytest.mark.parametrize("task", ROWS)
def test_input_and_answers(tmp_path: Path, task: str):
    row, line = ROWS[task]
    data = source(tmp_path / "source", row, SPLITS.get(task, "train"))
    if task.startswith("eli5"):  # shares of a validation split
        parts = datasets.load_from_disk(str(data))
        parts[f"validation_{task[5:]}"] = parts[SPLITS[task]]
        data = tmp_path / "both"
        parts.save_to_disk(str(data))
    assert prepare("--task", task, "--source", data, "--out_dir", tmp_path / "out") == 0
    for split in ("train", "dev", "test"):
        text = (tmp_path / f"out/{task}/{task}_{split}.tsv").read_text(encoding="utf-8")
        assert set(text.splitlines()) == {line}
    assert load_task(f"gym/{task}", tmp_path / "out").train[0].answers == tuple(line.split("\t")[1:])


def test_every_question_answering_task_is_compared(golden):
    assert set(golden.case("ensemble", "tasks.json", "qa_tasks")) - set(ROWS) == {"sciq"}


def test_sciq_shuffles_choices_and_drops_rows_without_support(tmp_path: Path):
    rows = [
        {
            "question": f"Q{i}?",
            "distractor1": "x",
            "distractor2": "y",
            "distractor3": "z",
            "correct_answer": "a",
            "support": "S." * (i % 5 > 0),
        }
        for i in range(20)
    ]
    parts = {split: datasets.Dataset.from_list(rows) for split in ("train", "validation", "test")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "source"))
    assert prepare("--task", "sciq", "--source", tmp_path / "source", "--out_dir", tmp_path / "out") == 0
    generator = np.random.RandomState(42)
    expected = []
    for i in range(20):
        choices = ["a", "x", "y", "z"]
        generator.shuffle(choices)
        if i % 5 > 0:
            expected.append(
                f"Q{i}?" + "".join(f" ({letter}) {c}" for letter, c in zip("ABCD", choices, strict=True)) + " [SEP] S.\ta"
            )
    assert (tmp_path / "out/sciq/sciq_test.tsv").read_text().splitlines() == expected
    entry = json.loads((tmp_path / "out/sciq/prepare.json").read_text())["files"]["sciq_test.tsv"]
    assert (entry["rows"], entry["left_out"]) == (16, 4)


def boolq(folder: Path) -> Path:
    for split, count in (("train", 30), ("validation", 11)):
        rows = [{"question": f"{split} {i}", "passage": "P", "answer": i % 3 == 0} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_few_shot_samples_by_class(tmp_path: Path):
    (tmp_path / "source").mkdir()
    words = ("--task", "boolq", "--source", boolq(tmp_path / "source"), "--out_dir", tmp_path / "out", "--k", 2)
    assert prepare(*words, "--seed", 13) == prepare(*words, "--seed", 42, "--test", "validation") == 0
    folder = tmp_path / "out/boolq"
    order = list(range(30))
    np.random.RandomState(13).shuffle(order)
    groups: dict[bool, list[int]] = {}
    for i in order:
        groups.setdefault(i % 3 == 0, []).append(i)
    for split, start in (("train", 0), ("dev", 2)):
        chosen = [i for group in groups.values() for i in group[start : start + 2]]
        lines = [f"question: train {i} [SEP] context: P\t{'yes' if i % 3 == 0 else 'no'}" for i in chosen]
        assert (folder / f"boolq_2_13_{split}.tsv").read_text().splitlines() == lines
    # the test part of the full data set is the second half of validation, as in the published sizes (1635 of 3270)
    assert len((folder / "boolq_2_13_test.tsv").read_text().splitlines()) == 6
    assert len((folder / "boolq_2_42_test.tsv").read_text().splitlines()) == 11
    files = json.loads((folder / "prepare.json").read_text())["files"]
    assert files["boolq_2_42_train.tsv"]["sample"] == {"k": 2, "seed": 42, "test": "validation"}
    assert len(files) == 6
    assert len(load_task("gym/boolq", tmp_path / "out", prefix="boolq_2_42").train) == 4


def test_too_few_rows_for_a_sample(tmp_path: Path, capsys):
    (tmp_path / "source").mkdir()
    words = ("--task", "boolq", "--source", boolq(tmp_path / "source"), "--out_dir", tmp_path / "out")
    assert prepare(*words, "--k", 6) == 2
    message = "deltatune prepare: error: task boolq: class 'yes' has 10 training rows, 12 are needed; lower --k\n"
    assert capsys.readouterr().err == message


def test_a_recipe_of_ones_own(tmp_path: Path, capsys):
    rows = [{"q": f"q{i}", "options": ["u", "v"], "right": "ba"[i % 2].upper()} for i in range(10)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    recipe = tmp_path / "quiz.yaml"
    text = 'columns: [q, options, right]\ninput: "{q}{choices}"\nchoices: [options]\nanswer: right\nanswer_by: letter\n'
    recipe.write_text(text, encoding="utf-8")
    words = ("--task", recipe, "--source", tmp_path / "rows.json", "--out_dir", tmp_path)
    assert prepare(*words) == 0
    lines = [
        line for split in ("train", "dev", "test") for line in (tmp_path / f"quiz/quiz_{split}.tsv").read_text().splitlines()
    ]
    assert sorted(lines) == [f"q{i} (A) u (B) v\t{'vu'[i % 2]}" for i in range(10)]
    for change, message in (
        (("input:", "inptu:"), "unknown key 'inptu'; did you mean 'input'?"),
        (("{q}", "{question}"), "recipe quiz: 'question' is not of a column; columns: q, options, right"),
        (("letter", "guess"), "recipe quiz: unknown answer_by 'guess'; known: text, index, number, letter, key"),
        (("columns: [q, options, right]\n", ""), "missing key 'columns'"),
    ):
        recipe.write_text(text.replace(*change), encoding="utf-8")
        capsys.readouterr()
        assert prepare(*words) == 2
        assert message in capsys.readouterr().err


def test_the_files_that_the_documentation_shows(tmp_path: Path):
    recipe, task = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/data.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "quiz.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(task, encoding="utf-8")
    assert find_recipe(str(tmp_path / "quiz.yaml"), "gym")[0].choices == ("options",)
    assert read_task_file(tmp_path / "mine.yaml").labels == ("supports", "refutes")


def test_the_documentation_names_every_recipe():
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    names = [name for section in recipe_names().values() for name in section]
    assert [name for name in names if f"`{name}`" not in text and not name.startswith("tweet_eval-stance")] == []


def test_a_hidden_label_is_no_answer(tmp_path: Path, capsys):
    row = {"premise": "P.", "choice1": "one", "choice2": "two", "label": -1}
    assert prepare("--task", "superglue-copa", "--source", source(tmp_path / "s", row), "--out_dir", tmp_path / "out") == 2
    assert "no split 'train' with labelled rows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
