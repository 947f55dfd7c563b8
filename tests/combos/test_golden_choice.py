"""Choosing runs, reading logs, votes and losses: the reference vectors."""

from __future__ import annotations

import re

import pytest
import torch

from deltatune.combos.gathering import Trial, choose
from deltatune.combos.losses import published_regression_loss
from deltatune.combos.published_log import keys_of, matching, read_log, second_metric, trials
from deltatune.combos.vote import Spread, best_by, mean_logits, predictions
from deltatune.core.data import builtin_task
from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import score

G = ("combos", "gather.json")


@pytest.mark.golden(*G)
def test_the_published_choice_by_test_scores_d1(golden):
    entries, queries = golden.case(*G, "log_entries"), golden.case(*G, "queries")
    compared = 0
    for query in queries:
        if (final := (query.get("project") or {}).get("final")) is None:
            continue
        task = query["condition"]["task_name"]
        found = trials(matching(entries, query["condition"]), task)
        if final["best_lr"] is None:
            with pytest.raises(DeltatuneError, match="no run to choose from"):
                choose(found, "test")
            continue
        chosen = choose(found, "test")
        assert chosen.best_rate == final["best_lr"]
        assert (chosen.mean, chosen.deviation) == pytest.approx((final["mean"], final["std"]), rel=1e-9)
        warned = any("Warning! Best" in line for line in query["project"]["stdout"])
        rates = {trial.rate for trial in found}
        assert warned == (chosen.border is not None or len(rates) == 1)
        compared += 1
    assert compared == 12
    with pytest.raises(DeltatuneError, match="sts-b/spearman: no such metric"):  # D35
        keys_of("sts-b/spearman")


@pytest.mark.golden(*G)
def test_gaps_are_signed_d34(golden):
    """The published gap is |train - test|; ours has the sign, and is there for the cases that the program could not do."""
    entries, compared = golden.case(*G, "log_entries"), 0
    for query in golden.case(*G, "queries"):
        gap, task = query.get("gap") or {}, query["condition"]["task_name"]
        if "error" in gap and task != "sts-b/spearman":
            chosen = choose(trials(matching(entries, query["condition"]), task), "test")
            assert chosen.gap is not None or task == "sts-b/spearmanr"
        if not (gap.get("final") or {}).get("best_lr"):
            continue
        chosen = choose(trials(matching(entries, query["condition"]), task), "test")
        assert chosen.gap is not None
        sizes = [abs(trial.gap) for trial in chosen.trials]
        assert Spread.of(sizes).mean == pytest.approx(gap["final"]["gap_mean"], rel=1e-9)
        assert Spread.of(sizes).deviation == pytest.approx(gap["final"]["gap_std"], rel=1e-9, abs=1e-12)
        compared += 1
    assert compared == 5


@pytest.mark.golden(*G)
def test_the_choice_by_dev_scores_in_each_seed(golden):
    entries, compared = golden.case(*G, "log_entries"), 0
    for query in golden.case(*G, "queries"):
        if not (stdout := (query.get("base_project") or {}).get("stdout")):
            continue
        task = query["condition"]["task_name"]
        found = trials(matching(entries, query["condition"]), task)
        chosen = choose(found, "per_seed")
        lines = [line for line in stdout if "best dev" in line]
        for trial, line in zip(chosen.trials, lines, strict=True):
            total = sum(other.seed == trial.seed for other in found)
            assert line.startswith(f"{trial.seed}: best dev ({trial.dev:.5f}) test ({trial.test:.5f}) ")
            assert line.endswith(f"| total trials: {total}")
        scores = Spread.of([100 * trial.reported for trial in chosen.trials])
        assert stdout[-1].startswith(f"mean +- std: {scores.mean:.1f} ({scores.deviation:.1f}) (median {scores.median:.1f})")
        if (other := second_metric(task)) is not None:
            second = {trial.seed + str(trial.rate): trial for trial in trials(matching(entries, query["condition"]), other)}
            both = Spread.of([100 * second[trial.seed + str(trial.rate)].reported for trial in chosen.trials])
            assert stdout[-1].endswith(f"second metric: {both.mean:.1f} ({both.deviation:.1f}) (median {both.median:.1f})")
        compared += 1
    assert compared == 6


@pytest.mark.golden(*G)
def test_a_log_is_read_and_never_run(golden, tmp_path):
    [line] = golden.case(*G, "log_lines_example")
    (tmp_path / "log").write_text(f"{line}\n\n", encoding="utf-8")
    [found] = read_log(tmp_path / "log")
    first = golden.case(*G, "log_entries")[0]
    plain = {key for key in first if not key.startswith("__")}
    assert {key: found[key] for key in plain} == {key: first[key] for key in plain}
    (tmp_path / "odd").write_text("{'a': 1, 'device': device(type='cuda')}", encoding="utf-8")
    assert read_log(tmp_path / "odd") == [{"a": 1, "device": "device(type='cuda')"}]
    (tmp_path / "bad").write_text(f"{line}\n__import__('os').getcwd()\n", encoding="utf-8")
    with pytest.raises(DeltatuneError, match="line 2: not a dictionary of plain values"):
        read_log(tmp_path / "bad")


@pytest.mark.golden("combos", "run_log.json")
def test_the_log_of_complete_runs_gives_their_trials(golden):
    entries = golden.case("combos", "run_log.json", "entries")
    found = trials(entries, "sst-2")
    assert len(found) == len(golden.case("combos", "run_log.json", "runs"))
    for entry, trial in zip(entries, found, strict=True):
        assert (trial.train, trial.dev, trial.test) == tuple(
            entry[f"sst-2_{split}_eval_acc"] for split in ("train", "dev", "test")
        )
        assert trial.rate == entry["learning_rate"]


def percent(scores):
    found = Spread.of(scores)
    return [100 * found.mean, 100 * found.deviation, 100 * found.median]


def printed(line):
    """The numbers behind "mean"; the program printed one decimal, and a tie of 17.25 falls by its order of summation."""
    return pytest.approx([float(number) for number in re.findall(r"\d+\.\d", line)], abs=0.05 + 1e-9)


@pytest.mark.golden("combos", "ensemble.json")
@pytest.mark.parametrize("number", range(4))
def test_votes(golden, number):
    case = golden("combos", "ensemble.json")[number]
    task, lines = case["task"], iter(case["stdout"])
    keys, name = keys_of(task), task.partition("/")[0]
    other = second_metric(task)
    chosen = {}
    for model in range(case["n_models"]):
        picked = []
        for seed in case["labels"]:
            own = [e for e in case["log"] if e["model_id"] == model and str(e["data_dir"]).endswith(f"-{seed}")]
            best = best_by({place: entry[keys["dev"]] for place, entry in enumerate(own)})
            picked.append(own[best])
            chosen.setdefault(seed, []).append(f"{name}-{model}-{own[best]['array_id']}")
        dev, test = (percent([entry[keys[split]] for entry in picked]) for split in ("dev", "test"))
        line = next(lines)
        assert line.startswith(f"Model {model} | val")
        assert [*dev[:2], *test] == printed(line.partition(" / ")[0])
    scores, seconds = [], []
    for seed, labels in case["labels"].items():
        logits = [torch.tensor(case["logits"][key], dtype=torch.float64) for key in chosen[seed]]
        found = predictions(logits)
        assert mean_logits(logits).shape == (len(labels), logits[0].shape[1])
        metric = "f1" if task == "mrpc/f1" else "accuracy"
        value = score(metric, found, labels).value
        scores.append(0.0 if value != value else value)
        seconds.append(score("accuracy", found, labels).value)
    first, both = percent(scores), percent(seconds)
    assert [*first, *(both if other else ())] == printed(next(lines))


def test_a_vote_on_values_is_their_mean_d36():
    assert predictions([torch.tensor([1.0, 4.0]), torch.tensor([2.0, 5.0])]) == [1.5, 4.5]
    with pytest.raises(DeltatuneError, match="one shape"):
        predictions([torch.zeros(2, 2), torch.zeros(3, 2)])


@pytest.mark.golden("combos", "forward.npz", "forward_config.json")
def test_the_published_loss_of_a_regression_d5(golden):
    archive, (low, high) = golden("combos", "forward.npz"), golden.case("combos", "forward_config.json", "label_bounds")
    logits, values = (torch.tensor(archive[f"regression_loss/{name}"]).double() for name in ("logits", "y"))
    found = published_regression_loss(logits, values, low, high)
    assert found.item() == pytest.approx(float(archive["regression_loss/reference"]), rel=1e-9)


@pytest.mark.golden("combos", "processors.json")
def test_tables_of_the_reference_program(golden):
    modes, middles = (golden.case("combos", "processors.json", key) for key in ("output_modes", "median"))
    for name, mode in modes.items():
        glue = name not in ("mr", "cr", "mpqa", "subj", "trec", "sst-5", "snli")
        config = builtin_task(f"glue/{name}" if glue else name)
        assert (mode == "regression") == (config.regression is not None)
        if name in middles:
            assert sum(config.regression) / 2 == middles[name]


@pytest.mark.golden("combos", "metrics.json")
def test_a_checkpoint_is_chosen_by_the_metric_of_its_task(golden):
    order = {"f1": "mrpc/f1", "mcc": "cola", "pearson": "sts-b/pearson", "acc": "sst-2", "mnli/acc": "mnli"}
    for case in golden.case("combos", "metrics.json", "objective"):
        metrics = {key.removeprefix("eval_"): value for key, value in case["metrics"].items()}
        names = [name for name in ("mnli/acc", "mnli-mm/acc", "f1", "mcc", "pearson", "acc") if name in metrics]
        assert metrics[names[0]] == case["objective"]
        if names[0] in order:
            assert keys_of(order[names[0]])["dev"].endswith(names[0])
    own = {"glue/mrpc": "f1", "glue/qqp": "f1", "glue/cola": "matthews", "glue/sts-b": "pearson", "glue/mnli": "accuracy"}
    assert {task: builtin_task(task).metric for task in own} == own


def test_rules_differ():
    found = [Trial("1", 0.1, 0.5, 0.9), Trial("2", 0.1, 0.5, 0.9), Trial("1", 0.2, 0.8, 0.6), Trial("2", 0.2, 0.4, 0.6)]
    assert choose(found, "test").best_rate == 0.1
    assert choose(found, "mean_dev").best_rate == 0.2
    assert choose(found).rates == (0.2, 0.1)
    assert choose(found, "mean_dev").border == "largest"
    assert choose([Trial("1", 0.1, float("nan"), 0.2), Trial("1", 0.2, 0.1, 0.3)]).rates == (0.2,)
