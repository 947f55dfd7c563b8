"""`suggest`: folds, the evidence, the budget."""

from __future__ import annotations

import pytest

from deltatune.combos.combination import Combination
from deltatune.combos.commands.suggesting import seconds_of
from deltatune.combos.plans import Plan
from deltatune.combos.suggestion import Evidence, Suggestion, Way
from deltatune.combos.trials import Measured, Trials, _TimeIsUpError
from deltatune.core import BackboneConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores
from deltatune.core.evidence import Clock
from deltatune.core.files import read_json
from deltatune.core.run import read_records
from deltatune.core.tune_config import TaskChoice, TuneConfig


def test_times_as_people_write_them():
    assert [seconds_of(text) for text in ("15m", "90s", "1.5h", "300")] == [900.0, 90.0, 5400.0, 300.0]
    for text in ("soon", "0", "-3m", "1d"):
        with pytest.raises(DeltatuneError, match="give a time such as 15m"):
            seconds_of(text)


def test_what_the_examples_do_not_tell_apart():
    ways = [Way(Combination.parse(text)) for text in ("bias", "adapter", "prompt")]
    rows = [(0.1, 0.02, 0.18), (0.0, 0.0, 0.0), (-0.05, -0.2, 0.1)]
    scores = Scores(0.5, "accuracy", 0.7, 0.1, 20)
    found = Suggestion(
        [Evidence(way, scores, *row, 1, 1.0) for way, row in zip(ways, rows, strict=True)], ways[1], scores, 20, 4, True
    )
    assert found.sure
    assert [item.way.name for item in found.undecided] == ["prompt"]


def test_a_suggestion_is_the_same_again_and_uses_every_example_once(few, command, tmp_path):
    words = ["suggest", *few[:6], "--budget", "1h", "--updates", 2, "--folds", 2, "--methods", "[none, adapter, bias]"]
    said = command(*words, "--out_dir", tmp_path / "one")
    facts = read_json(tmp_path / "one/run.json")
    rows = read_records(tmp_path / "one")
    assert {row["way"] for row in rows} == {"none", "adapter", "bias"}
    assert all(row["held_out_n"] == 24 for row in rows)
    values = [row["held_out_value"] for row in rows]
    assert values == sorted(values, reverse=True)
    own = next(row for row in rows if row["way"] == "adapter")
    assert (own["gain"], own["low"], own["high"]) == (0.0, 0.0, 0.0)
    assert next(row for row in rows if row["way"] == "none")["trained"] == 0
    assert f"suggestion: {facts['chosen']}: " in said
    assert f"--methods {facts['chosen']}" in said
    command(*words, "--out_dir", tmp_path / "two")
    again = {row["way"]: row["held_out_loss"] for row in read_records(tmp_path / "two")}
    assert again == {row["way"]: row["held_out_loss"] for row in rows}


def test_a_budget_that_is_too_small_is_refused_with_the_number_that_would_do(few, refused, tmp_path):
    line = refused("suggest", *few[:6], "--budget", "0.1s", "--methods", "[adapter, bias]", "--out_dir", tmp_path / "no")
    assert "--budget 0.1 s is too small for 2 ways" in line
    assert " s are needed; raise it, or give fewer --methods" in line
    assert not (tmp_path / "no").exists()


class Simulated(Trials):
    """Trainings that take a second an update, on a clock that only they move."""

    def run(self, way, train, held, updates, until=float("inf")):
        for _ in range(updates):
            if self.clock.now > until:
                raise _TimeIsUpError
            self.clock.time += 1.0
            self._passes += 1
        references = [("negative", "positive").index(example.label) for example in held]
        hits = [1.0] * len(held)
        return Scores(1.0, "accuracy", 0.1, 0.0, len(held), references, hits, references)


class Simulation(Clock):
    """See `Simulated`."""

    time = 0.0
    spent = property(lambda self: self.time)
    now = property(lambda self: self.begun + self.time)


@pytest.mark.parametrize(("budget", "updates"), [(1000.0, 100), (300.0, 27), (100.0, None)])
def test_a_machine_slower_than_measured_trains_less_within_the_budget(few, budget, updates):
    plan = Plan(Combination(()), TuneConfig(BackboneConfig(few[1], form="prompt"), TaskChoice(few[3]), ()))
    trials = Simulated(plan, Simulation(budget))
    ways = [Way(Combination.parse(text)) for text in ("bias", "adapter")]
    if updates is None:
        with pytest.raises(DeltatuneError, match=r"--budget 100 s is too small for 2 ways.* about \d+ s are needed"):
            trials.suggest(ways, 4, Measured(100, 0.0), ways[0])
        return
    found = trials.suggest(ways, 4, Measured(100, 0.0), ways[0])
    assert found.updates == updates
    assert trials.clock.spent <= 1.1 * budget
    assert found.folds >= 2


def test_what_is_refused(few, refused, tmp_path):
    out = ("--out_dir", tmp_path / "out")
    assert "--reference adapter is not tried" in refused("suggest", *few[:6], "--methods", "[bias]", *out)
    assert "suggest tries methods together" in refused("suggest", *few[:6], "--methods", "[bias>adapter]", *out)
    assert "needs 16; label some more" in refused("suggest", *few[:6], "--max_train", 8, *out)
    assert "--folds must be from 2 to 6" in refused("suggest", *few[:6], "--folds", 12, *out)
