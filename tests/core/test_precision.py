"""Where bfloat16 only costs time."""

from __future__ import annotations

import pytest

from deltatune.core import precision
from deltatune.core.backbone import BackboneConfig
from deltatune.core.loading import load_backbone


@pytest.fixture
def slow(monkeypatch):
    """As on a CPU without instructions for it."""
    monkeypatch.setattr(precision, "computes_in_bf16", lambda device: False)
    precision.hint_at_slow_bf16.cache_clear()
    yield
    precision.hint_at_slow_bf16.cache_clear()


def test_other_devices_gain_from_it():
    assert precision.computes_in_bf16("cuda")
    assert isinstance(precision.computes_in_bf16("cpu"), bool)


def test_a_slow_precision_is_named_once(slow, folder, caplog):
    path = folder("bert-head")
    for _ in range(2):
        load_backbone(BackboneConfig(str(path), form="head", device="cpu", precision="bf16"), num_labels=3)
    assert [record.getMessage() for record in caplog.records if "bfloat16" in record.getMessage()] == [
        "note: this CPU has no bfloat16 instructions; fp32 is several times faster here"
    ]


def test_the_usual_precision_says_nothing(slow, folder, caplog):
    load_backbone(BackboneConfig(str(folder("bert-head")), form="head", device="cpu"), num_labels=3)
    assert not caplog.records
