"""What a user can mend is one line and code 2, and nothing is written."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest

from deltatune.core import cli
from deltatune.core.files import read_json


def listing(folder):
    """Every path below `folder`, with its size."""
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in sorted(folder.rglob("*"))]


@pytest.fixture(scope="module")
def runs(tune_reviews, tmp_path_factory):
    """Finished runs by the name of their delta."""
    folder = tmp_path_factory.mktemp("runs")
    for delta in ("LoRA", "Houlsby"):
        assert cli.main([*tune_reviews, "--delta", delta, "--out_dir", str(folder / delta)]) == 0
    return folder


@pytest.fixture
def copied(reviews, tmp_path):
    """A copy of the example that a test may damage: its task file."""
    shutil.copytree(reviews.parent, tmp_path / "reviews")
    return tmp_path / "reviews/task.yaml"


@pytest.fixture
def untouched(refused, tmp_path):
    """`untouched(*words)`: the line of a refusal that leaves every file as it was."""

    def run(*words):
        before = listing(tmp_path)
        line = refused(*words)
        assert listing(tmp_path) == before
        return line

    return run


def words_for(task, *extra):
    model = task.with_name("model")
    out = task.parents[1] / "out"
    return ("tune", "--model", model, "--task", task, "--device", "cpu", "--delta", "LoRA", "--out_dir", out, *extra)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_an_unknown_label(copied, untouched, split):
    file = copied.with_name(f"{split}.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[2] = json.dumps({"text": "so so .", "label": "neutral"})
    file.write_text("\n".join(lines), encoding="utf-8")
    line = untouched(*words_for(copied))
    assert f"{split}.jsonl line 3: unknown label 'neutral'; known labels: negative, positive" in line


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda task: task.with_name("dev.jsonl").write_bytes(b""), "dev.jsonl is empty"),
        (lambda task: task.with_name("train.jsonl").unlink(), "no train.jsonl in"),
        (lambda task: task.with_name("dev.jsonl").unlink(), "no dev.jsonl in"),
        (lambda task: task.with_name("train.jsonl").write_bytes(b'{"text": "\xff"}'), "byte 0xff is not utf-8"),
        (lambda task: task.write_text("reader: jsonl\nmetrik: accuracy\n"), "did you mean 'metric'?"),
        (lambda task: task.unlink(), "no such file"),
        (lambda task: [f.unlink() for f in task.with_name("model").glob("token*")], "no tokenizer"),
        (lambda task: task.with_name("model").joinpath("tokenizer.json").unlink(), "tokenizer"),
        (lambda task: task.with_name("model").joinpath("model.safetensors").unlink(), "model"),
        (lambda task: task.with_name("model").joinpath("config.json").unlink(), "no config.json"),
    ],
)
def test_damaged_files(copied, untouched, damage, message):
    damage(copied)
    assert message in untouched(*words_for(copied))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--delta LoRA --delta.width 3", "LoRA has no option width; it has rank, alpha, init, targets, dropout"),
        ("--delta LoRA --delta.rank 0", "lora.rank must be at least 1, got 0"),
        (
            "--delta LoRA --delta.rank 65",
            "lora.rank must be between 1 and 64 at bert.encoder.layer.0.attention.self.query, got 65",
        ),
        ("--delta LoRA --delta.targets [query,query]", "lora.targets names query 2 times; name each once"),
        ("--train.steps 4 --train.snapshots [2,5]", "the run ends after 4 updates, before 5; leave it out, or train longer"),
        (
            "--train.epochs 2 --train.batch_size 64 --train.snapshots [1,900]",
            "updates, before 900; leave it out, or train longer",
        ),
        ("--delta Lora", "there is no choice Lora"),
        ("--delta Modules", "modules.patterns is empty"),
        ("--train.stepz 3", "did you mean --train.steps?"),
        ("--train.steps 0", "steps must be at least 1, got 0"),
        ("--lr 0.1 --train.optimizer.lr 0.2", "--lr 0.1 and --train.optimizer.lr 0.2: give one of them"),
        ("--form text", "a bert model has no such form"),
        ("--start nowhere", "nowhere: no delta here"),
        ("--model nowhere/at/all", "nowhere/at/all"),
        ("--task glue/rte", "give their folder as data_dir"),
        ("--max_train 0", "max_train must be at least 1, got 0"),
        ("--max_length 0", "max_length"),
    ],
)
def test_options_that_do_not_fit(copied, untouched, extra, message):
    assert message in untouched(*words_for(copied, *extra.split()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("dull", "dreadfully"), "label word 'dreadfully' of label 'negative' is unknown; choose a word that is one token"),
        (("*mask*", "*maks*"), "maks"),
        (("template:", "# template:"), "has no template"),
        (("{negative: dull,", "{negativ: dull,"), "no label word for label 'negative'"),
    ],
)
def test_prompts_that_do_not_fit(copied, untouched, change, message):
    text = copied.read_text(encoding="utf-8")
    assert change[0] in text
    copied.write_text(text.replace(*change), encoding="utf-8")
    assert message in untouched(*words_for(copied, "--form", "prompt"))


@pytest.mark.parametrize(
    ("regression", "words", "message"),
    [
        ("[-.inf, .inf]", "{low: dull, high: lovely}", "no finite bounds"),
        ("[0, 1]", "{}", "0 label words; a regression needs one for each end"),
    ],
)
def test_prompts_of_a_regression_that_do_not_fit(copied, untouched, regression, words, message):
    lines = [line for line in copied.read_text(encoding="utf-8").splitlines() if line.startswith(("reader", "texts", "template"))]
    lines += ["label: score", "metric: pearson", f"regression: {regression}", f"label_words: {words}"]
    copied.write_text("\n".join(lines), encoding="utf-8")
    for split in ("train", "dev", "test"):
        copied.with_name(f"{split}.jsonl").write_text('{"text": "a lovely soup", "score": 0.5}\n', encoding="utf-8")
    assert message in untouched(*words_for(copied, "--form", "prompt"))


def test_a_folder_that_cannot_be_written(copied, untouched):
    for out in (copied / "run", copied):
        line = untouched(*words_for(copied)[:-1], out)
        assert str(out) in line
        assert "choose another" in line


@pytest.mark.skipif(find_spec("wandb") is not None, reason="the tracker is installed")
def test_a_tracker_that_is_not_installed(copied, untouched):
    line = untouched(*words_for(copied, "--log_with", "wandb"))
    assert line.endswith("--log_with wandb: the package wandb is not installed; install it, or leave the option out\n")


def test_a_loss_that_is_no_number(copied, refused, tmp_path):
    line = refused(*words_for(copied, "--lr", "1e30", "--train.save_every", 1))
    assert "the loss is nan at update 2; lower optimizer.lr" in line
    assert not (tmp_path / "out/delta").exists()
    assert read_json(tmp_path / "out/run.json")["status"] == "running"
    assert "no delta here" in refused("evaluate", "--run", tmp_path / "out")


def test_a_task_with_other_labels_is_not_evaluated(runs, copied, refused):
    text = copied.read_text(encoding="utf-8").replace("[negative, positive]", "[positive, negative]")
    copied.write_text(text, encoding="utf-8")
    before = listing(runs)
    line = refused("evaluate", "--run", runs / "LoRA", "--task", copied)
    assert "its head knows the labels negative, positive, and task reviews has positive, negative" in line
    assert listing(runs) == before


def test_a_prompt_has_no_head_that_could_know_other_labels(copied, command, tmp_path):
    command(*words_for(copied, "--form", "prompt", "--train.steps", 1))
    before = read_json(tmp_path / "out/run.json")["scores"]["test"]["value"]
    text = copied.read_text(encoding="utf-8").replace("[negative, positive]", "[positive, negative]")
    copied.write_text(text, encoding="utf-8")
    command("evaluate", "--run", tmp_path / "out", "--task", copied, "--device", "cpu")
    record = json.loads((tmp_path / "out/records.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (record["kind"], record["value"]) == ("evaluation", before)  # the words say the same in any order


def test_another_base_needs_a_word_of_the_user_and_is_recorded(runs, command, refused, tmp_path):
    command("tune", "--config", runs / "LoRA/config.yaml", "--delta", "Full", "--out_dir", tmp_path / "full")
    command("merge", "--run", tmp_path / "full", "--out_dir", tmp_path / "base")
    words = ("evaluate", "--run", runs / "Houlsby", "--device", "cpu", "--model", tmp_path / "base")
    before = listing(runs)
    line = refused(*words)
    assert line.endswith("give the same base, or --other_base to try it on this one\n")
    assert listing(runs) == before
    command(*words, "--other_base")
    record = json.loads((runs / "Houlsby/records.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert record["tuned_on"]["digest"] == read_json(runs / "Houlsby/run.json")["base"]["digest"]
    assert record["base"]["digest"] != record["tuned_on"]["digest"]
    assert record["base"]["name"] == str(tmp_path / "base")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"text": "a"}\n{"txt": "b"}\n', 'line 2: no "text" with a text in it, as the task needs; keys are txt'),
        ('{"text": 3}\n', 'line 1: no "text"'),
        ('{"text": "a"}\nnot json\n', "line 2: not JSON"),
        ('["a"]\n', "line 1: not an object"),
    ],
)
def test_inputs_that_cannot_be_predicted(runs, untouched, tmp_path, text, message):
    (tmp_path / "in.jsonl").write_text(text, encoding="utf-8")
    line = untouched("predict", "--run", runs / "LoRA", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert message in line


def test_a_file_never_takes_the_place_of_a_folder(runs, untouched, tmp_path):
    shutil.copytree(runs / "LoRA", tmp_path / "run")
    message = f"cannot write {tmp_path / 'run'}: it is a folder; nothing was changed; name a file"
    assert message in untouched("evaluate", "--run", tmp_path / "run", "--predictions", tmp_path / "run")
    assert message in untouched("evaluate", "--run", tmp_path / "no run", "--predictions", tmp_path / "run")  # before anything
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    words = ("predict", "--run", tmp_path / "run", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "run")
    assert message in untouched(*words)
    below = tmp_path / "in.jsonl/answers.jsonl"
    message = f"cannot write {below}: Not a directory; nothing was changed; name another file"
    assert message in untouched("predict", "--run", tmp_path / "no run", *words[3:5], "--output", below)
    assert message in untouched("evaluate", "--run", tmp_path / "no run", "--predictions", below)


@pytest.mark.parametrize("count", ["0", "-5"])
def test_a_number_of_examples_is_at_least_one(runs, untouched, count):
    assert f"--max_examples must be at least 1, got {count}" in untouched(
        "evaluate", "--run", runs / "LoRA", "--max_examples", count
    )


def test_what_cannot_be_done_with_a_run(runs, untouched, tmp_path, copied):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    merge, out = ("merge", "--run", runs / "LoRA", "--out_dir"), ("--out_dir", tmp_path / "x")
    assert "is not an empty folder" in untouched(*merge, tmp_path / "full")
    assert "is not an empty folder" in untouched(*merge, copied)
    assert "PEFT has no bottleneck adapters" in untouched("export", "--run", runs / "Houlsby", *out)
    assert "no such file or folder" in untouched("import", "--adapter", tmp_path / "none", "--model", "m", *out)
    assert "have other settings (LoRA and Houlsby)" in untouched("distance", "--left", runs / "LoRA", "--right", runs / "Houlsby")
    assert "no delta here" in untouched("distance", "--left", runs / "LoRA", "--right", tmp_path)
    assert "steps there: none" in untouched("evaluate", "--run", f"{runs}/LoRA@7")
    copied.with_name("test.jsonl").unlink()
    assert "has no test examples" in untouched("evaluate", "--run", runs / "LoRA", "--task", copied, "--split", "test")
