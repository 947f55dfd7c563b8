"""Models that have learned nothing yet: an architecture with initial values drawn from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deltatune.core.backbone import Form, untie

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def fresh_model(form: Form, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A model in float32 with the transformers library's initial values, drawn from `seed` alone.

    The encoder is the same in the forms head and prompt: the form head is the encoder of the form prompt with a head of its own.
    A T5 whose decoder's output is not rescaled has an output layer of its own, normal with standard deviation width^-0.5.

    Args:
        form: of the model.
        config: its architecture.
        seed: of the values; torch's global generators are left as they are.
    """
    from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    # The type is said, since a configuration may ask for half precision, in which other values are drawn.
    # transformers 5 says True for every T5 and keeps what config.json says in another setting.
    tied = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
    library: Any = AutoModelForSeq2SeqLM if form == "text" else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: PreTrainedModel = library.from_config(config, dtype=torch.float32)
        if form == "text" and not tied:
            head: nn.Module = untie(model).get_output_embeddings()
            nn.init.normal_(head.get_parameter("weight"), std=model.config.hidden_size**-0.5)
        if form == "head":
            values = model.base_model.state_dict()
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            model.base_model.load_state_dict(values, strict=False)  # a pooler is of the head
    return model
