"""Task lists, and the sampling of lines of several tasks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.data import as_text, load_task
from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import score
from deltatune.subspace.draws import Drawn, exactly
from deltatune.subspace.objective import shares, stick
from deltatune.subspace.splits import folder_of, leaks, read_split, require_distinct, shared_examples


def test_the_published_split(golden):
    data = golden("subspace", "tasks.json")
    published = data["train_60_unseen_rest"]
    split = read_split("train_60_unseen_rest", "gym/")
    assert list(split.sources) == [f"gym/{name}" for name in sorted(published["train"])]
    assert list(split.unseen) == [f"gym/{name}" for name in sorted(published["unseen"])]
    assert any("glue-rte holds the data of source task superglue-rte" in note for note in split.notes)  # defect 31
    assert any("`all` lacks qa_srl, quoref (2 in all)" in note for note in split.notes)
    script = data["stage2_script_tasks"]
    assert sorted(set(published["unseen"]) - {"glue-rte"}) == script["multi"]
    assert "rotten_tomatoes" in script["single_from_glue-sst2"]


def test_folders_are_matched_exactly(golden):
    """Defect 16: a task was found by its name being part of a folder's name."""
    for task, others in golden("subspace", "tasks.json")["substring_collisions"].items():
        folders = {folder_of(f"gym/{name}") for name in (task, *others)}
        assert len(folders) == 1 + len(others)
        require_distinct([f"gym/{name}" for name in (task, *others)])


def test_lists_that_do_not_hold(tmp_path):
    file = tmp_path / "split.json"
    for content, message in (
        ({"train": ["a", "b"], "unseen": ["b"]}, "b is in `train` and in `unseen`"),
        ({"train": ["a"]}, "`unseen` is a list"),
        ({"train": [], "unseen": []}, "`train` is empty"),
        ([], "`train` is a list"),
    ):
        file.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(DeltatuneError, match=message):
            read_split(file)
    file.write_text(json.dumps({"train": ["b", "a", "b"], "unseen": []}), encoding="utf-8")
    split = read_split(file)
    assert (split.sources, split.notes) == (("a", "b"), ("`train` names b more than once (1 such in all)",))
    with pytest.raises(DeltatuneError, match="tasks a/b and a-b have one folder"):
        require_distinct(["a/b", "a-b"])


def test_tasks_that_are_not_unseen_are_named():
    task = load_task("world/sentiment-0", max_test=40)
    assert shared_examples(task, task) == 0
    known = {"source": task, "apart": load_task("world/topic-0", max_test=40), "twin": replace(task, test=task.train[:3])}
    assert shared_examples(task, known["twin"]) == 3
    said = replace(task.train[0], texts=tuple(f"sentence: {text.upper()} !" for text in task.train[0].texts))
    assert shared_examples(task, replace(task, test=[said])) == 1

    def load(name):
        if name not in known:
            raise DeltatuneError("no such file")
        return known[name]

    assert list(leaks(["source"], ["apart"], load)) == []
    found = list(leaks(["source", "lost"], ["source", "apart", "twin"], load))
    assert found == [
        "source is a source task of this subspace: scores on it are not those of an unseen task",
        "3 of 3 test examples of twin have the texts of training examples of source task source",
        "source task lost was not compared with the unseen ones: no such file",
    ]


def test_lines_of_each_task(golden, tmp_path):
    data = golden("subspace", "multitask_sampling.json")
    counts = {"train": data["train_lines_each_task"], "dev": data["dev_lines_each_task"], "test": None}
    for split, count in counts.items():
        expected = data["splits"][split]
        examples, names = [], []
        for name in expected["task_order"]:
            for part, lines in data["lines"][name].items():
                path = tmp_path / data["files"][name][part]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            task = load_task(f"gym/{name}", tmp_path / "data")
            found = exactly(getattr(task, split), count)
            examples += [(task, example) for example in found]
            names += [name] * len(found)
        assert names == expected["task_names"]
        texts = [as_text(task, example) for task, example in examples]
        assert [source.split()[1] for source, _ in texts] == expected["source_rows"]
        assert [target for _, targets in texts for target in targets] == expected["target_rows"]
        if split == "train":
            assert [[list(targets)][0] for _, targets in texts] == expected["labels_allowed_by_index"]
            continue
        assert [list(example.answers) for _, example in examples] == expected["evaluation_references"]
        found = {}
        for number, (task, example) in enumerate(examples):
            predictions, references = found.setdefault(task, ([], []))
            predictions.append("wrong" if number % 2 else example.answers[0])
            references.append(list(example.answers))
        scores = {task.text_name: score(task.text_metric, *rows).value for task, rows in found.items()}
        outcome = expected["evaluate_with_even_rows_correct"]
        assert scores == pytest.approx(outcome["task2score"], abs=1e-9)
        assert sum(scores.values()) / len(scores) == pytest.approx(outcome["mean_performance"], abs=1e-9)


def test_no_lines_are_refused():
    with pytest.raises(DeltatuneError, match="at least 1"):
        exactly([], 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 0.999), min_size=0, max_size=5), st.integers(0, 50))
def test_shares_are_a_mixture(uniform, seed):
    found = stick(torch.tensor(uniform, dtype=torch.float64))
    assert len(found) == len(uniform) + 1
    assert float(found.sum()) == pytest.approx(1.0)
    assert bool((found >= 0).all())
    drawn = shares("dirichlet", len(found), torch.Generator().manual_seed(seed))
    assert torch.allclose(drawn.sum(dim=1), torch.ones(len(found)))
    assert torch.equal(drawn, drawn[:1].expand_as(drawn))


def test_the_published_mixture_favours_the_first_delta_and_dirichlet_none():
    generator = torch.Generator().manual_seed(0)
    means = {}
    for mixing in ("stick", "dirichlet"):
        means[mixing] = torch.stack([shares(mixing, 3, generator)[0] for _ in range(4000)]).mean(dim=0)
    torch.testing.assert_close(means["stick"], torch.tensor([0.5, 0.25, 0.25]), atol=0.02, rtol=0)
    torch.testing.assert_close(means["dirichlet"], torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    assert torch.equal(shares("own", 3, generator), torch.eye(3))


@pytest.mark.parametrize("per", ["batch", "task", "example"])
def test_draws_do_not_depend_on_the_process(per):
    from deltatune.core.batches import Batches

    features = [{"task": i % 2, "index": i, "input_ids": [0]} for i in range(10)]
    collate = lambda rows: {key: torch.tensor([row[key] for row in rows]) for key in ("task", "index")}  # noqa: E731
    inner = Batches(features, collate, 4, 0)
    source = Drawn(inner, 3, "stick", per, [[2, 2, 2], [3, 1, 1]])

    def rows(world):
        parts = [part for rank in range(world) for part in source.micro_batches(1, 2, rank, world)]
        found = {}
        for part in parts:
            for i, index in enumerate(part.batch["index"].tolist()):
                found[index] = (part.batch["solution"][i].tolist(), part.batch["shares"][i, 0].tolist())
        return found

    assert rows(1) == rows(2) == rows(3)
    distinct = len({str(value) for value in rows(1).values()})
    assert distinct == {"example": len(rows(1))}.get(per, distinct)
    assert distinct <= len(rows(1))
