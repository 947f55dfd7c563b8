"""Reading, prompts and splits against the reference vectors."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from deltatune.core.data import Example, TaskConfig, as_text, build_task, builtin_task, load_task, task_names
from deltatune.core.data.readers import read_split, split_gym_line
from deltatune.core.metrics import DEFINITIONS


def gym_task(folder: Path, task: str, tsv: str, **options):
    """The examples of `tsv` as every split of a text-to-text task."""
    for split in ("train", "dev", "test"):
        (folder / f"{task}_{split}.tsv").write_bytes(tsv.encode("utf-8"))
    return load_task(f"gym/{task}", folder, **options)


def ranges(examples) -> list[list[int]]:
    """[start, stop) of each example's answers among all answers."""
    return [list(pair) for pair in pairwise(accumulate((len(example.answers) for example in examples), initial=0))]


def padded(words: list[int], length: int) -> tuple[list[int], list[int]]:
    """Ids and mask of a sequence cut to `length` with its end token 1, padded with 0."""
    ids = [*words[: length - 1], 1]
    return ids + [0] * (length - len(ids)), [1] * len(ids) + [0] * (length - len(ids))


def test_text_to_text_data_of_the_mode_connectivity_programs(golden, tmp_path: Path):
    for number, case in enumerate(golden("modeconn", "data_parsing.json")["cases"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        if "n_lines" in case:
            tsv = "".join(f"q{i}\ta{i}\tb{i}\n" for i in range(case["n_lines"]))
            task = gym_task(folder, case["task"], tsv, max_dev=1000)
            assert (len(task.dev), ranges(task.dev)[-1]) == (case["n_data"], case["last_out_range"])
            assert len(task.train) == len(task.test) == case["n_lines"]
            continue
        half = {"split1": "first", "split2": "second"}.get(case["split"])
        task = gym_task(folder, case["task"], case["tsv"], half=half)
        examples = task.train if case["type"] == "train" else task.dev
        assert task.metric == case["metric"]
        if not case["cartography"]:
            assert [[example.texts[0], list(example.answers)] for example in examples] == case["data"]
        written = [as_text(task, example, lowercase=case["lowercase"]) for example in examples]
        targets = [target for _, answers in written for target in answers]
        assert [source for source, _ in written] == case["prompts"]
        assert ranges(examples) == case["out_range"]
        if not case["cartography"]:
            assert targets == case["targets"]
            tokens = [padded([ord(letter) for letter in text], case["max_output_length"]) for text in targets]
            assert [[token or -100 for token in ids] for ids, _ in tokens] == case["labels"]
            assert [mask for _, mask in tokens] == case["decoder_attention_mask"]
        tokens = [padded([ord(letter) for letter in source], case["max_input_length"]) for source, _ in written]
        assert [ids for ids, _ in tokens] == case["input_ids"]
        assert [mask for _, mask in tokens] == case["attention_mask"]
        # The recorded programs evaluate on row i of all answers; right is the first answer of example i.
        firsts = [answers[0] for _, answers in written]
        assert firsts == [targets[start] for start, _ in ranges(examples)]


def test_text_to_text_data_of_the_ensemble_programs(golden, tmp_path: Path):
    for number, case in enumerate(golden("ensemble", "data_processing.json")):
        folder = tmp_path / str(number)
        folder.mkdir()
        limit = case["choose_valid_lines"] if case.get("choose_valid") else None
        task, whole = (gym_task(folder, case["task"], case["tsv"], max_dev=size) for size in (limit, None))
        assert task.metric == case["metric"]
        written = [as_text(task, example, lowercase=case.get("lower", False)) for example in whole.dev]
        targets = [target for _, answers in written for target in answers]
        assert [source for source, _ in written] == case["inputs_text"]
        assert targets == case["outputs_text_flat"]
        assert ranges(task.dev) == case["metadata"]
        assert len(task.dev) == case["n"]
        ids = {word: rank + 3 for rank, word in enumerate(case["vocab"])}
        sources = [padded([ids.get(word, 2) for word in source.split()], case["max_in"]) for source, _ in written[: case["n"]]]
        assert ([row for row, _ in sources], [mask for _, mask in sources]) == (case["input_ids"], case["attention_mask"])
        labels = [padded([ids.get(word, 2) for word in text.split()], case["max_out"]) for text in targets[: len(case["labels"])]]
        assert [[token or -100 for token in row] for row, _ in labels] == case["labels"]
        assert [mask for _, mask in labels] == case["decoder_attention_mask"]
        firsts = [start for start, _ in ranges(task.dev)]
        if "eval_label_row_first_answer" in case:
            assert firsts == case["eval_label_row_first_answer"]
        else:
            assert [list(range(*span)) for span in ranges(task.dev)] == case["train_label_rows_allowed"]


def test_single_task_format_of_the_subspace_programs(golden, tmp_path: Path):
    data = golden("subspace", "single_task_format.json")
    for line in data["raw_line_parsing"]:
        assert split_gym_line(line["line"]) == line["fields"]
    call = data["calls"]["default"]
    tsv = "".join(
        "\t".join([text.removeprefix(f" [{data['task']}] "), *answers]) + "\n"
        for text, answers in zip(call["inputs"]["texts"], call["references_after"], strict=False)
    )
    task = gym_task(tmp_path, data["task"], tsv, max_dev=4)
    # `bos` prepends a text that no tokenizer of these models knows; it is not offered.
    for name, lowercase in (("default", False), ("lowercase", True)):
        call = data["calls"][name]
        written = [as_text(task, example, lowercase=lowercase) for example in task.dev]
        assert [source for source, _ in written] == call["inputs"]["texts"][:4]
        targets = [target for _, answers in written for target in answers]
        assert targets == call["outputs"]["texts"][: len(targets)]
        assert ranges(task.dev) == call["out_spans"]
        assert [list(example.answers) for example in task.dev] == call["references_after"]
        ids = call["vocab_first_seen_order"]
        rows = [padded([ids[word] for word in source.split()], call["inputs"]["max_length"]) for source, _ in written]
        assert ([row for row, _ in rows], [mask for _, mask in rows]) == (call["input_ids"], call["attention_mask"])
        rows = [padded([ids[word] for word in target.split()], call["outputs"]["max_length"]) for target in targets]
        assert [[token or -100 for token in row] for row, _ in rows] == call["labels"]


def test_files_of_the_multi_task_programs(golden, tmp_path: Path):
    data = golden("subspace", "multitask_sampling.json")
    whole = data["splits"]["test"]
    sources, targets, spans = [], [], []
    for name in whole["task_order"]:
        for split, lines in data["lines"][name].items():
            path = tmp_path / data["files"][name][split]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        task = load_task(f"gym/{name}", tmp_path / "data")
        assert (len(task.train), len(task.dev)) == (len(data["lines"][name]["train"]), len(data["lines"][name]["dev"]))
        for example in task.test:
            source, answers = as_text(task, example)
            assert source.startswith(f" [{name}] ")
            sources.append(source.split()[1])
            spans.append([len(targets), len(targets) + len(answers)])
            targets += answers
    assert (sources, targets, spans) == (whole["source_rows"], whole["target_rows"], whole["target_spans"])


def test_rows_of_the_delta_tuning_programs(golden, tmp_path: Path):
    data = golden("combos", "processors.json")
    for number, case in enumerate(data["processors"]):
        name = case["task"] if case["task"] in task_names() else f"glue/{case['task']}"
        config = builtin_task(name)
        folder = tmp_path / str(number)
        folder.mkdir()
        for file, content in data["files"][case["files_of"]].items():
            (folder / file).write_bytes(content.encode("utf-8"))
        if config.regression is None:
            assert list(config.labels or ()) == [str(label) for label in case["labels"]]
            assert data["num_labels"][case["files_of"]] == len(config.labels or ())
        else:
            assert list(config.regression) == data["bounds"][case["task"]]
        for split in ("train", "dev", "test"):
            path = folder / config.file(split)
            if case["examples"][split] is None:
                assert not path.exists()
                continue
            found = read_split(path, config)
            rows = [[example.id, example.texts[0], (*example.texts, None)[1], example.label] for example in found.examples]
            expected = [
                # Labels are texts here, and a cell without text is an empty text.
                [guid, first or "", second, float(label) if config.regression else str(label)]
                for guid, first, second, label in case["examples"][split]
            ]
            assert rows == expected
        if case["task"] == "qqp":
            assert read_split(folder / "train.tsv", config).notes == ("train.tsv: 1 rows with too few columns left out",)


def test_templates_and_label_words_of_the_built_in_tasks(golden):
    for folder, scripts in golden("combos", "run_matrix.json")["tasks"].items():
        config = builtin_task(f"glue/{folder}")
        assert folder == config.folders[0]
        matrix = scripts["run_one_task.sh"]
        assert config.template == matrix["templates"]["Y"]["without_soft_prompt"]
        words = ",".join(f"'{label}':'{word}'" for label, word in config.label_words.items())
        assert sorted(words.split(",")) == sorted(matrix["mapping"].strip("{}").replace(" ", "").split(","))


def test_label_order_of_chemprot(golden):
    ids = golden("recyclable", "metrics_and_labels.json")["chemprot_label_to_id"]
    assert builtin_task("chemprot").labels == tuple(sorted(ids, key=ids.__getitem__))
    config = TaskConfig(name="own", reader="jsonl", metric="accuracy")
    task = build_task(config, [Example(("x",), label) for label in reversed(ids)], [], [])
    assert task.labels == tuple(ids)


@pytest.mark.parametrize("name", task_names())
def test_every_built_in_task_is_well_formed(name: str):
    config = builtin_task(name)
    assert config.is_text or config.folders
    assert config.metric in DEFINITIONS
    if config.labels is not None:
        assert set(config.answers) in (set(), set(config.labels))
        assert set(config.label_words) in (set(), set(config.labels))
    if not config.is_text:
        task = build_task(
            config,
            [Example(("a", "b")[: len(config.texts) or 1], 1.0 if config.regression else (config.labels or "x")[0])],
            [],
            [],
        )
        assert DEFINITIONS[task.text_metric].inputs == "texts"
        assert as_text(task, task.train[0])[0].startswith(config.text_input.format("a", "b") if config.text_input else " [")
