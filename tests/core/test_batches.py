"""The order of examples: a function of seed, epoch and update, whatever the number of processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.batches import Batches, derived_seed
from deltatune.core.errors import DeltatuneError


def collate(features):
    width = max(len(f["input_ids"]) for f in features)
    rows = [f["input_ids"] + [0] * (width - len(f["input_ids"])) for f in features]
    return {"input_ids": torch.tensor(rows), "number": torch.tensor([f["number"] for f in features])}


def examples(count, longest=12):
    noise = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, longest + 1, (count,), generator=noise).tolist()
    return [{"input_ids": [1] * length, "number": i} for i, length in enumerate(lengths)]


def epoch_of(batches, epoch, accumulation=1):
    per_epoch = batches.per_epoch(accumulation)
    return [batches.indices(epoch * per_epoch + update, accumulation) for update in range(per_epoch)]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_an_epoch_visits_every_example_once(count, size, accumulation, grouped, seed):
    batches = Batches(examples(count), collate, size, seed, grouped)
    for epoch in (0, 2):
        updates = epoch_of(batches, epoch, accumulation)
        micro = [group for update in updates for group in update]
        assert sorted(i for group in micro for i in group) == list(range(count))
        assert sorted(map(len, micro)) == sorted([size] * (count // size) + [count % size] * (count % size > 0))
        # Only the last update of an epoch may hold fewer micro-batches: nothing is carried into the next epoch.
        assert all(len(update) == accumulation for update in updates[:-1])


def test_order_depends_on_seed_and_epoch_alone():
    first, again, other = (Batches(examples(30), collate, 4, seed) for seed in (0, 0, 1))
    assert epoch_of(first, 3) == epoch_of(again, 3)
    # Asking out of turn changes nothing.
    assert again.indices(25) == Batches(examples(30), collate, 4, 0).indices(25)
    assert epoch_of(first, 0) != epoch_of(first, 1)
    assert epoch_of(first, 0) != epoch_of(other, 0)


def test_derived_seeds_differ():
    keys = [("a", 0), ("a", 0, 0), ("a", 1), ("b", 0), ("a", 0, 1), ("a", 10), ("a", 1, 0), ("a", -1)]
    assert len({derived_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= derived_seed(*key) < 2**63 for key in keys)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 25), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.sampled_from([None, 1, 20]))
def test_processes_share_an_update_between_them(count, size, accumulation, world, budget):
    batches = Batches(examples(count), collate, size, 5, token_budget=budget)
    for step in range(batches.per_epoch(accumulation)):
        parts = [p for rank in range(world) for p in batches.micro_batches(step, accumulation, rank, world)]
        wanted = [i for group in batches.indices(step, accumulation) for i in group]
        assert sorted(i for p in parts for i in p.batch["number"].tolist()) == sorted(wanted)
        assert sum(p.weight for p in parts) == pytest.approx(1.0)
        assert all(p.weight == p.rows / len(wanted) for p in parts)


def test_a_token_budget_bounds_every_forward_pass():
    batches = Batches(examples(40), collate, 16, 0, token_budget=30)
    for step in range(batches.per_epoch()):
        parts = batches.micro_batches(step)
        assert all(p.rows * p.length <= 30 for p in parts)
        assert all(p.batch["input_ids"].shape == (p.rows, p.length) for p in parts)
    # An example above the budget still has its turn, alone.
    tight = Batches(examples(8), collate, 4, 0, token_budget=1).micro_batches(0)
    assert [p.rows for p in tight] == [1, 1, 1, 1] or all(p.rows == 1 or p.length == 1 for p in tight)


def test_grouping_by_length_pads_less():
    features = examples(200, longest=60)

    def padded(grouped):
        batches = Batches(features, collate, 8, 0, grouped)
        return sum(p.rows * p.length for step in range(25) for p in batches.micro_batches(step))

    real = sum(len(f["input_ids"]) for f in features)
    assert real <= padded(True) < 1.1 * real < padded(False)


def test_one_of_several_answers_is_chosen_by_seed_epoch_and_example():
    features = [{"input_ids": [1], "number": 100 * i} for i in range(6)]

    def choose(feature, generator):
        return feature | {"number": feature["number"] + int(torch.randint(0, 50, (), generator=generator))}

    def chosen(seed, epoch, size):
        batches = Batches(features, collate, size, seed, choose=choose)
        steps = range(epoch * batches.per_epoch(), (epoch + 1) * batches.per_epoch())
        return sorted(n for step in steps for p in batches.micro_batches(step) for n in p.batch["number"].tolist())

    assert chosen(0, 0, 2) == chosen(0, 0, 3)  # not of the batch it falls into
    assert chosen(0, 0, 2) != chosen(0, 1, 2)
    assert chosen(0, 0, 2) != chosen(1, 0, 2)


def test_lengths_of_objects_and_own_lengths():
    class Plain:
        def __init__(self, length):
            self.input_ids = [1] * length

    plain = Batches([Plain(3), Plain(1)], lambda fs: {}, 2, 0, token_budget=3)
    assert [p.rows for p in plain.micro_batches(0)] == [1, 1]
    own = Batches(["aaa", "b"], lambda fs: {"n": torch.tensor(len(fs))}, 2, 0, token_budget=6, lengths=lambda x: (len(x),))
    assert [(p.rows, p.length) for p in own.micro_batches(0)] == [(2, 0)]


@pytest.mark.parametrize(
    ("features", "size", "budget", "named"),
    [([], 1, None, "no training examples"), ([{}], 0, None, "batch_size"), ([{}], 1, 0, "token_budget")],
)
def test_bad_settings_are_named(features, size, budget, named):
    with pytest.raises(DeltatuneError, match=named):
        Batches(features, collate, size, 0, token_budget=budget)
