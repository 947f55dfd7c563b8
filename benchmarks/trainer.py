"""The other side of `speed.py`: PEFT's LoRA, or our adapter in a plain module, under the Trainer of transformers."""

from __future__ import annotations

import tempfile
import time
from typing import Any

from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from deltatune.core.delta import Tuned
from deltatune.core.formats import Feature, Format, TextFormat


class Wrapped(nn.Module):
    """A tuned model as the Trainer wants one: keyword arguments in, loss and logits out; generation where texts answer."""

    def __init__(self, tuned: Tuned, form: Format) -> None:
        super().__init__()
        self.tuned = tuned
        self.form = form
        self.deltas = nn.ParameterList(tuned.parameters_by_name().values())
        self.config = tuned.backbone.model.config
        self.generation_config = tuned.backbone.model.generation_config if isinstance(form, TextFormat) else None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss, where labels are given, and logits."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids, "labels": labels}
        batch = {name: tensor for name, tensor in given.items() if tensor is not None}
        logits = self.tuned(batch)
        return {"logits": logits} | ({} if labels is None else {"loss": self.form.loss(logits, batch)})

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """As a T5 does; the collator asks for it."""
        shifted: Tensor = self.tuned.backbone.model.prepare_decoder_input_ids_from_labels(labels)
        return shifted

    def generate(self, max_new_tokens: int, **batch: Any) -> Tensor:
        """Ids (B, L) of the answers."""
        return self.tuned.generate({k: v for k, v in batch.items() if isinstance(v, Tensor)}, max_new_tokens=max_new_tokens)


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when the first update began and the last one ended."""

    began = ended = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        self.began = self.began or time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        self.ended = time.perf_counter()


def with_lora(model: nn.Module, form: Format, rank: int, alpha: int) -> nn.Module:
    """PEFT's LoRA on the query and value projections of an encoder or of a T5."""
    text = isinstance(form, TextFormat)
    kind, sites = (TaskType.SEQ_2_SEQ_LM, ["q", "v"]) if text else (TaskType.SEQ_CLS, ["query", "value"])
    return get_peft_model(model, LoraConfig(task_type=kind, r=rank, lora_alpha=alpha, target_modules=sites))


def train(model: nn.Module, form: Format, features: list[Feature], rate: float, *, best: bool) -> float:
    """Seconds of one epoch in batches of 16; `best`: in bf16 and grouped by length."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "per_device_train_batch_size": 16,
            "num_train_epochs": 1,
            "learning_rate": rate,
            "bf16": best,
            "train_sampling_strategy": "group_by_length" if best else "random",
            "logging_strategy": "no",
            **_common(folder),
        }
        _trainer(model, form, settings, features, [clock]).train()
    return clock.ended - clock.began


def scoring(model: nn.Module, form: Format, features: list[Feature], *, best: bool) -> float:
    """Seconds to predict all `features`; `best`: in bf16, 64 examples at a time instead of 8."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"bf16": best, "per_device_eval_batch_size": 64 if best else 8, **_common(folder)}
        if isinstance(form, TextFormat):
            settings |= {"predict_with_generate": True, "bf16_full_eval": best}
        trainer = _trainer(model, form, settings)
        words = {"max_new_tokens": form.max_answer} if isinstance(form, TextFormat) else {}
        began = time.perf_counter()
        trainer.predict(_plain(features, form), **words)
        return time.perf_counter() - began


def _common(folder: str) -> dict[str, Any]:
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "dataloader_pin_memory": False}
    return {"output_dir": folder, **quiet}


def _trainer(
    model: nn.Module, form: Format, settings: dict[str, Any], features: list[Feature] | None = None, callbacks: Any = None
) -> Trainer:
    given = _plain(features, form) if features is not None else None
    if isinstance(form, TextFormat):
        collator = DataCollatorForSeq2Seq(form.tokenizer, model)
        return Seq2SeqTrainer(model, Seq2SeqTrainingArguments(**settings), collator, given, callbacks=callbacks)
    return Trainer(model, TrainingArguments(**settings), DataCollatorWithPadding(form.tokenizer), given, callbacks=callbacks)


def _plain(features: list[Feature], form: Format) -> list[Feature]:
    """Without the list of all answers, which the collator of transformers does not know."""
    return [{k: v for k, v in feature.items() if k != "answers"} for feature in features]
