"""How projections are divided among processes, as far as one process can tell; test_processes.py has two."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.errors import DeltatuneError
from deltatune.core.processes import Processes
from deltatune.core.resume import has_state
from deltatune.subspace.projections import draw
from deltatune.subspace.sharding import DIVIDED, draw_part, spans


def test_parts_differ_by_one_value_at_most():
    assert spans(6, 3) == [(0, 2), (2, 4), (4, 6)]
    assert spans(7, 2) == [(0, 4), (4, 7)]
    assert spans(2, 2) == [(0, 1), (1, 2)]
    with pytest.raises(DeltatuneError, match="a delta of 3 values cannot be divided among 4 processes; give --shard false"):
        spans(3, 4)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 9), more=st.integers(0, 1000))
def test_parts_cover_the_delta(count, more):
    found = spans(count + more, count)
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == count + more
    widths = [end - start for start, end in found]
    assert 1 <= min(widths) <= max(widths) <= min(widths) + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_those_of_what_one_process_draws(dtype):
    whole = draw(7, 3, torch.Generator().manual_seed(5), dtype=dtype)
    device = torch.device("cpu")
    parts = [draw_part(7, 3, torch.Generator().manual_seed(5), dtype, device, Processes(rank, 3)) for rank in range(3)]
    assert [(part.size, part.k) for part in parts] == [(7, 3)] * 3
    assert [tuple(part.decoder_weight.shape) for part in parts] == [(3, 3), (2, 3), (2, 3)]
    for field, tensor in whole.tensors().items():
        held = [part.tensors()[field] for part in parts]
        together = torch.cat(held, dim=DIVIDED[field]) if field in DIVIDED else held[1]
        torch.testing.assert_close(together, tensor, atol=0, rtol=0)
        assert all(own.untyped_storage().nbytes() == own.numel() * own.element_size() for own in held)


def test_a_state_is_there_once_all_processes_have_saved(tmp_path):
    assert not has_state(tmp_path / "none")
    (tmp_path / "state-3-0-of-2.pt").touch()
    (tmp_path / "state-2-1-of-2.pt").touch()
    assert not has_state(tmp_path)
    (tmp_path / "state-2-0-of-2.pt").touch()
    assert has_state(tmp_path)
