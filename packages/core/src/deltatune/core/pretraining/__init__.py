"""Pre-training: masked language modelling and span corruption on documents, in memory or into a folder."""

from __future__ import annotations

from deltatune.core.pretraining.config import MaskedLM, Objective, PretrainConfig, SpanCorruption
from deltatune.core.pretraining.folder import PretrainRun, pretrain_to
from deltatune.core.pretraining.loop import PretrainHooks, pretrain
from deltatune.core.pretraining.models import Sizes, build_model, fresh_backbone, objective_kind, save_model
from deltatune.core.pretraining.probe import Probe
from deltatune.core.pretraining.stream import Documents, Examples
from deltatune.core.pretraining.texts import Texts

__all__ = [
    "Documents",
    "Examples",
    "MaskedLM",
    "Objective",
    "PretrainConfig",
    "PretrainHooks",
    "PretrainRun",
    "Probe",
    "Sizes",
    "SpanCorruption",
    "Texts",
    "build_model",
    "fresh_backbone",
    "objective_kind",
    "pretrain",
    "pretrain_to",
    "save_model",
]
