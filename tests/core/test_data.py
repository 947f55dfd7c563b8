"""Task files, `load_task` and its messages."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from deltatune.core.data import Example, as_text, builtin_task, load_task
from deltatune.core.data.load import prefixes
from deltatune.core.errors import DeltatuneError

RTE = "index\tsentence1\tsentence2\tlabel\n"


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the checkout, or in the folder that DELTATUNE_DATA names."""
    folder = Path(os.environ.get("DELTATUNE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if not (folder / "glue").is_dir():
        pytest.skip(f"no real data: {folder} is absent (DELTATUNE_DATA names it)")
    return folder


def rte(folder: Path, **files: str | bytes) -> Path:
    """A folder of RTE files, by default well-formed ones."""
    folder.mkdir(parents=True, exist_ok=True)
    good = {"train": RTE + "0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n", "dev": RTE + "0\te\tf\tentailment\n"}
    for split, content in {**good, **files}.items():
        (folder / f"{split}.tsv").write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return folder


def test_a_glue_task_from_its_folder_or_the_one_above(tmp_path: Path):
    rte(tmp_path / "RTE")
    task = load_task("glue/rte", tmp_path)
    assert task == load_task("GLUE/RTE", tmp_path / "RTE")
    assert task.train == (Example(("a", "b"), "entailment", (), "train-0"), Example(("c", "d"), "not_entailment", (), "train-1"))
    assert task.labels == ("entailment", "not_entailment")
    assert (task.name, task.metric, task.text_metric, task.regression) == ("glue/rte", "accuracy", "ACC", None)
    assert task.test == task.dev
    assert task.notes == ("no test file: the development examples serve as test",)


def test_an_unlabelled_test_file_gives_way_to_dev(tmp_path: Path):
    task = load_task("glue/rte", rte(tmp_path, test="index\tsentence1\tsentence2\n0\tx\ty\n"))
    assert task.test == task.dev
    assert task.notes == ("the test file has no labels: the development examples serve as test",)
    # CoLA: files without header, but a test file with one
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("s0\t1\t\tA text.\ns1\t0\t*\tText a.\n")
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tA third.\n")
    assert load_task("glue/cola", tmp_path).test[1] == Example(("Text a.",), "0", (), "dev-1")


def test_digest_follows_configuration_and_examples(tmp_path: Path):
    folder = rte(tmp_path)
    task = load_task("glue/rte", folder)
    assert task.digest == load_task("glue/rte", folder).digest
    others = [
        load_task("glue/rte", folder, max_train=1).digest,
        load_task(replace(builtin_task("glue/rte"), metric="macro_f1"), folder).digest,
        load_task("glue/rte", rte(tmp_path / "other", dev=RTE + "0\te\tg\tentailment\n")).digest,
    ]
    assert len({task.digest, *others}) == 4


def test_crlf_and_byte_order_mark(tmp_path: Path):
    plain = load_task("glue/rte", rte(tmp_path / "plain"))
    windows = "\ufeff" + (RTE + "0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n").replace("\n", "\r\n")
    assert load_task("glue/rte", rte(tmp_path / "windows", train=windows)).train == plain.train
    line = "a text with \u2028 in it"
    assert load_task("glue/rte", rte(tmp_path / "odd", train=RTE + f"0\t{line}\tb\tentailment")).train[0].texts[0] == line


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"", r"train.tsv is empty"),
        (RTE, r"train.tsv holds no examples"),
        (RTE + "0\ta\tentailment\n", r"train.tsv line 2: 3 columns, expected 4"),
        (RTE + "0\ta\tb\tentailment\n\n", r"train.tsv line 3: 1 column, expected 4"),
        (RTE.encode() + b"0\ta\tb\tentailment\n1\tcaf\xe9\td\tentailment\n", r"train.tsv line 3: byte 0xe9 is not utf-8"),
        (RTE + "0\ta\tb\tmaybe\n", r"train.tsv line 2: unknown label 'maybe'; known labels: entailment, not_entailment"),
        (RTE + "0\ta\tb\t\n", r"train.tsv line 2: unknown label ''"),
        (
            "index\tsentence1\tlabel\n0\ta\tentailment\n",
            r"train.tsv line 1: no column 'sentence2' in the header; columns: index,",
        ),
        ("index\tsentence1\tsentence2\n0\ta\tb\n", r"train.tsv line 2: no label"),
        ("0\ta\n", r"train.tsv line 1: 2 columns, but column 3 is needed"),
    ],
)
def test_malformed_tables(tmp_path: Path, train: str | bytes, message: str):
    with pytest.raises(DeltatuneError, match=message) as error:
        load_task("glue/rte", rte(tmp_path, train=train))
    assert "\n" not in str(error.value)


def test_missing_files_and_folders(tmp_path: Path):
    with pytest.raises(DeltatuneError, match=r"no such folder: .*nowhere"):
        load_task("glue/rte", tmp_path / "nowhere")
    with pytest.raises(DeltatuneError, match=r"task glue/rte: no train.tsv in .*, .*RTE"):
        load_task("glue/rte", tmp_path)
    (rte(tmp_path) / "dev.tsv").unlink()
    with pytest.raises(DeltatuneError, match=r"task glue/rte: no dev.tsv in .*; name another file with `dev`"):
        load_task("glue/rte", tmp_path)
    with pytest.raises(DeltatuneError, match="give their folder as data_dir"):
        load_task("glue/rte")


@pytest.mark.parametrize(
    ("name", "near"), [("glue/rtee", "glue/rte"), ("rte", "glue/rte"), ("gym/glue-rtee", "gym/glue-rte"), ("scierk", "scierc")]
)
def test_unknown_names_show_near_ones(name: str, near: str, tmp_path: Path):
    with pytest.raises(DeltatuneError, match=near):
        load_task(name, tmp_path)


def test_limits_and_halves(tmp_path: Path):
    tsv = "".join(f"q{i}\ta{i}\n" for i in range(7))
    for split in ("train", "dev", "test"):
        (tmp_path / f"boolq_{split}.tsv").write_text(tsv)
    task = load_task("gym/boolq", tmp_path, half="second", max_train=2, max_dev=3, max_test=1)
    assert [example.texts[0] for example in task.train] == ["q3", "q4"]
    assert (len(task.dev), len(task.test)) == (3, 1)
    with pytest.raises(DeltatuneError, match="max_dev must be at least 1, got 0"):
        load_task("gym/boolq", tmp_path, max_dev=0)


def test_samples_of_a_text_to_text_task(tmp_path: Path):
    for prefix in ("boolq_16_42", "boolq_16_13"):
        for split in ("train", "dev"):
            (tmp_path / f"{prefix}_{split}.tsv").write_text(f"{prefix}\tyes\tYes\n")
    task = load_task("gym/boolq", tmp_path)
    assert task.train[0] == Example(("boolq_16_13",), None, ("yes", "Yes"), "boolq_16_13_train-0")
    assert task.notes == ("sample boolq_16_13 of 2: boolq_16_13, boolq_16_42", "no test file: no test examples")
    assert task.labels == task.test == ()
    assert load_task("gym/boolq", tmp_path, prefix="boolq_16_42").train[0].texts == ("boolq_16_42",)
    assert prefixes(task.config, tmp_path) == ["boolq_16_13", "boolq_16_42"]
    with pytest.raises(DeltatuneError, match=r"no boolq_16_1_train.tsv in"):
        load_task("gym/boolq", tmp_path, prefix="boolq_16_1")
    (tmp_path / "boolq_16_13_train.tsv").write_text("q\tyes\n\tonly an answer\n")
    with pytest.raises(DeltatuneError, match=r"line 2: expected input and answer between tabs, got '\\tonly an answer'"):
        load_task("gym/boolq", tmp_path)


@pytest.mark.parametrize(
    ("task", "folder", "sizes"),
    [
        ("glue/cola", "glue", (8551, 1043, 1043)),
        ("glue/rte", "glue", (2490, 277, 277)),
        ("glue/wnli", "glue", (635, 71, 71)),
        ("glue/sst2", "glue", (6920, 872, 1821)),
        ("glue/mrpc", "glue", (4076, 1725, 1725)),
        ("glue/stsb", "glue", (5749, 1500, 1379)),
        ("chemprot", "domain", (4169, 2427, 3469)),
        ("citation_intent", "domain", (1688, 114, 139)),
        ("scicite", "domain", (7320, 916, 1861)),
        ("sciie", "domain", (3219, 455, 974)),
        ("glue/mrpc", "k-shot/MRPC/16-100", (32, 32, 408)),
        ("glue/mnli", "k-shot/MNLI/16-13", (48, 48, 48)),
        ("trec", "k-shot/trec/16-100", (96, 96, 500)),
        ("sst-5", "k-shot/sst-5/16-100", (80, 80, 2210)),
        ("gym/glue-cola", "gym", (4000, 500, 522)),
        ("gym/banking77", "gym", (4000, 500, 1000)),
    ],
)
def test_real_files(shared_data: Path, task: str, folder: str, sizes: tuple[int, int, int]):
    loaded = load_task(task, shared_data / folder)
    assert (len(loaded.train), len(loaded.dev), len(loaded.test)) == sizes
    assert not [note for note in loaded.notes if "test" not in note and "training example" not in note]


@pytest.mark.parametrize("task", ["cola", "rte", "wnli", "mrpc", "sst2"])
def test_classification_tasks_are_written_as_the_text_to_text_files_are(shared_data: Path, task: str):
    gym = load_task(f"gym/glue-{task}", shared_data / "gym")
    known = {as_text(gym, example) for part in (gym.train, gym.dev, gym.test) for example in part}
    table = load_task(f"glue/{task}", shared_data / "glue")
    written = [as_text(table, example) for example in (*table.train, *table.dev)]
    assert len(set(written) & known) > 0.3 * min(len(known), len(written))
    assert {answers for _, answers in written} == {answers for _, answers in known}
