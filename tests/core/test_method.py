"""What a method changes about a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from deltatune.core import checkpoint
from deltatune.core.backbone import BackboneConfig
from deltatune.core.delta import LoRA, forward_with
from deltatune.core.files import read_json
from deltatune.core.method import Method
from deltatune.core.optim import OptimizerConfig
from deltatune.core.train_config import TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.tuning import tune_to


@dataclass
class OneNumber(Method):
    """Trains the factor of one fixed direction."""

    def begin(self, tuned, form, task):
        generator = torch.Generator().manual_seed(1)
        own = tuned.parameters_by_name()
        self.direction = {name: torch.randn(p.shape, generator=generator) for name, p in own.items()}
        self.factor = torch.full((1,), 0.1, requires_grad=True)
        return {}

    def _weights(self):
        return {name: self.factor * direction for name, direction in self.direction.items()}

    def trained(self, tuned):
        return {"factor": self.factor}

    def loss(self, tuned, form, batch):
        return form.loss(forward_with(tuned, self._weights())(batch), batch)

    def hold(self, tuned):
        tuned.load({name: tensor.detach() for name, tensor in self._weights().items()})

    def found(self):
        return {"factor": self.factor.item()}


def test_what_is_trained_need_not_be_the_deltas_own_tensors(reviews, tmp_path):
    train = TrainConfig(OptimizerConfig(lr=0.01), steps=4, batch_size=4, eval_every=2, snapshots=2)
    base = BackboneConfig(str(reviews.with_name("model")), device="cpu")
    config = TuneConfig(base, TaskChoice(str(reviews)), (LoRA(rank=2),), train)
    method = OneNumber()
    facts = tune_to(config, tmp_path / "run", {"command": "test"}, "", method=method)
    assert facts["trainable"] == {"LoRA": 0, "Head": 0, "other": 1}
    assert read_json(tmp_path / "run/run.json")["found"]["factor"] != 0.1
    for place, factor in ((tmp_path / "run", facts["found"]["factor"]), (Path(f"{tmp_path / 'run'}@4"), None)):
        saved = checkpoint.read(place).weights
        ratios = torch.cat([(saved[name] / direction).flatten() for name, direction in method.direction.items()])
        assert float(ratios.std()) < 1e-5
        assert factor is None or abs(float(ratios.mean()) - factor) < 1e-6
