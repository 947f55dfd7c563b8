"""A model with deltas attached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deltatune.core.backbone import Backbone
from deltatune.core.delta.base import Batch, Delta, DeltaConfig, module_at
from deltatune.core.delta.values import Head, ValuesDelta
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import Weights, check_match

_CARRIES = "_deltatune_attached"


class Tuned(nn.Module):
    """A frozen backbone and its deltas.

    `tuned(batch)` gives logits in float32: (B, C) for the form head, (B, V) at the mask for the form prompt, (B, L, V) for
    the form text (the decoder reads the labels shifted right). Batches map names to tensors: input_ids, attention_mask (B, T)
    int64, and what else the model takes; labels (B,) or (B, L) int64 with -100 ignored are not passed on, except as decoder
    input.
    """

    def __init__(self, backbone: Backbone, deltas: list[Delta]) -> None:
        """Use `attach`."""
        super().__init__()
        self.backbone = backbone
        self.model: nn.Module = backbone.model
        self.deltas = nn.ModuleList(deltas)
        self._was_trainable = [p.requires_grad for p in self.model.parameters()]
        self.model.requires_grad_(False)
        ordered = sorted(self.kinds(), key=lambda delta: delta.stage)
        self._handles = [handle for delta in ordered for handle in delta.hook(self.model)]
        self._mask = _MaskPosition()
        if backbone.form == "prompt":
            self._handles.append(_hook_mask(backbone, self._mask))
        self._names = {
            name: f"deltas.{i}.{internal}" for i, delta in enumerate(self.kinds()) for name, internal in delta.names().items()
        }
        self._aliases = _aliases(self.model)
        self._lean = self._low_precision() if backbone.precision == "bf16" else {}
        self.model.__dict__[_CARRIES] = True
        self.eval()

    def kinds(self) -> list[Delta]:
        """The attached deltas, in the order given."""
        return [delta for delta in self.deltas if isinstance(delta, Delta)]

    def _low_precision(self) -> dict[str, Tensor]:
        """bf16 copies of the frozen linear maps: autocast would cast them again in every forward pass."""
        taken = self._replaced()
        return {
            f"{path}.{leaf}": tensor.to(torch.bfloat16)
            for path, module in self.model.named_modules()
            if isinstance(module, nn.Linear)
            for leaf, tensor in module.named_parameters(recurse=False)
            if f"{path}.{leaf}" not in taken
        }

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """The trainable tensors, by public name, in the order of attachment."""
        return {name: self.get_parameter(internal) for name, internal in self._names.items()}

    @property
    def head_names(self) -> list[str]:
        """Names of the task head's tensors."""
        return [name for name in self._names if self.backbone.sites.is_head(name)]

    def weights(self) -> dict[str, Tensor]:
        """The deltas as a vector: copies, detached, float32; differences to the base where the base holds the parameter."""
        differences = self._differences()
        held = {name: parameter.detach().float() for name, parameter in self.parameters_by_name().items()}
        return {name: value - self._base(name) if name in differences else value.clone() for name, value in held.items()}

    def load(self, weights: Weights) -> None:
        """Take the values of `weights`.

        Raises:
            DeltatuneError: other names or shapes than these deltas have; nothing is changed then.
        """
        parameters = self.parameters_by_name()
        check_match(parameters, weights, "the attached deltas and the weights to load")
        with torch.no_grad():
            for name, value in self._values(weights).items():
                parameters[name].copy_(value)

    def _differences(self) -> set[str]:
        """Names whose parameter holds base + difference (BitFit holds the difference itself)."""
        return {name for delta in self.kinds() if delta.relative and isinstance(delta, ValuesDelta) for name in delta.names()}

    def _base(self, name: str) -> Tensor:
        return self.model.get_parameter(name).float()

    def _values(self, weights: Weights) -> dict[str, Tensor]:
        """What the parameters hold when the deltas are `weights`; differentiable."""
        result = dict(weights)
        for name in self._differences():
            base = self._base(name)
            result[name] = base + weights[name].to(base.device)
        return result

    def forward(self, batch: Batch) -> Tensor:
        """Logits in float32 (see the class)."""
        logits: Tensor = self.call(batch).logits.float()
        return logits[:, 0] if self.backbone.form == "prompt" else logits

    def call(self, batch: Batch, **settings: Any) -> Any:
        """The model's own output for `batch`, deltas active; `settings` such as `output_attentions` go to the model."""
        inputs = self._inputs(batch)
        if self.backbone.form == "text":
            settings = {"use_cache": False, **settings}  # nothing is decoded after it: the keys and values would be thrown away
        with self._precision():
            return self._call(lambda model: model(**inputs, **settings))

    def generate(self, batch: Batch, **settings: Any) -> Tensor:
        """Token ids (B, L) of the model's own `generate`, the start token first; greedy unless `settings` say otherwise."""
        inputs = {k: v for k, v in self._inputs(batch).items() if not k.startswith("decoder_")}
        with self._precision(), torch.no_grad():
            ids: Tensor = self._call(lambda model: model.generate(**inputs, **{"do_sample": False, "num_beams": 1} | settings))
        return ids

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        for delta in sorted(self.kinds(), key=lambda delta: delta.stage):
            batch = delta.prepare(batch)
        if self.backbone.form == "prompt":
            self._mask.find(batch["input_ids"], self.backbone.mask_id)
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        if self.backbone.form == "text" and "decoder_input_ids" not in inputs and "labels" in batch:
            inputs["decoder_input_ids"] = self.backbone.model.prepare_decoder_input_ids_from_labels(batch["labels"])
        return inputs

    def _replaced(self) -> dict[str, Tensor]:
        """The deltas' tensors in place of the base's, under every name that the base's tensor has."""
        chosen = ((name, tensor) for delta in self.kinds() for name, tensor in delta.replaced().items())
        return {alias: tensor for name, tensor in chosen for alias in self._aliases[name]}

    def _call(self, function: Callable[[Any], Any]) -> Any:
        """Run `function(model)` with the deltas' tensors in the places that they replace."""
        replaced = {**self._lean, **self._replaced()}
        if not replaced:
            return function(self.model)
        runner = _Runner(self.model, function)
        # Aliases are named one by one: torch's own tying would give the word table the bf16 copy made for the vocabulary scores.
        tensors = {f"model.{name}": tensor for name, tensor in replaced.items()}
        return functional_call(runner, tensors, (), tie_weights=False)

    def _precision(self) -> Any:
        if self.backbone.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.backbone.device.type, dtype=torch.bfloat16)

    def detach(self) -> Backbone:
        """Remove every trace of the deltas from the model and give the backbone back."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.model.__dict__.pop(_CARRIES, None)
        for parameter, trainable in zip(self.model.parameters(), self._was_trainable, strict=True):
            parameter.requires_grad_(trainable)
        self.model.eval()
        return self.backbone

    def report(self) -> list[dict[str, Any]]:
        """One row a delta: kind, number of sites, number of trainable scalars."""
        return [
            {
                "kind": type(delta.config).__name__,
                "sites": len(delta.sites),
                "trainable": sum(parameter.numel() for parameter in delta.parameters()),
            }
            for delta in self.kinds()
        ]


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Name of every parameter -> all names of that tensor (T5's word table has three or four)."""
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            names.setdefault(id(parameter), []).append(f"{path}.{leaf}" if path else leaf)
    return {name: same for same in names.values() for name in same}


class _MaskPosition:
    """Where the mask stands in the batch under way, (B,) int64."""

    positions: Tensor

    def find(self, ids: Tensor, mask_id: int) -> None:
        found = ids == mask_id
        if not bool(found.any(dim=1).all()):
            raise DeltatuneError("prompt: a text of the batch holds no mask token; the template must put one in every text")
        self.positions = found.int().argmax(dim=1)


def _at_mask(mask: _MaskPosition, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pre-hook of the vocabulary head: keep the state at the mask, (B, T, d) -> (B, 1, d); scores elsewhere are not needed."""
    states = args[0]
    rows = torch.arange(states.shape[0], device=states.device)
    return (states[rows, mask.positions].unsqueeze(1), *args[1:])


def _hook_mask(backbone: Backbone, mask: _MaskPosition) -> torch.utils.hooks.RemovableHandle:
    head: nn.Module = backbone.model.get_submodule(backbone.sites.lm_head or "")
    return head.register_forward_pre_hook(partial(_at_mask, mask))


class _Runner(nn.Module):
    """Calls a function of the model, so that `functional_call` reaches `generate` too."""

    def __init__(self, model: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self) -> Any:
        return self.function(self.model)


def attach(backbone: Backbone, *configs: DeltaConfig, generator: torch.Generator | None = None, head: bool = True) -> Tuned:
    """Attach deltas to a backbone.

    Args:
        backbone: what to attach to; its own tensors are never changed.
        configs: any number of deltas; they act together.
        generator: source of the initial values, on the CPU; None means seed 0.
        head: train a task head as well, where the form has one.

    Raises:
        DeltatuneError: a setting does not fit the backbone, or two deltas claim one tensor.
    """
    if backbone.model.__dict__.get(_CARRIES):
        raise DeltatuneError("attach: this model carries deltas already; detach them first, or give all of them to one call")
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    if backbone.form == "prompt":
        if backbone.sites.lm_head is None:
            raise DeltatuneError("form prompt: the sites record names no lm_head; use another --form")
        module_at(backbone.model, backbone.sites.lm_head, "form prompt")
    wanted = list(configs)
    has_head = any(backbone.sites.is_head(name) for name, _ in backbone.model.named_parameters())
    if head and has_head and not any(isinstance(config, Head) for config in wanted):
        wanted.append(Head())
    # The head draws first: with one seed it is then the same for every delta beside it.
    order = sorted(range(len(wanted)), key=lambda i: not isinstance(wanted[i], Head))
    built = {i: wanted[i].build(backbone, generator) for i in order}
    deltas = [built[i] for i in range(len(wanted))]
    names = [name for delta in deltas for name in delta.names()]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DeltatuneError(f"attach: two deltas claim {doubled[0]}; combine other kinds")
    return Tuned(backbone, deltas)


def forward_with(tuned: Tuned, weights: Weights) -> Callable[[Batch], Tensor]:
    """The model's forward pass as if `weights` were loaded; differentiable in them, `tuned` itself unchanged."""
    check_match(tuned.parameters_by_name(), weights, "the attached deltas and the weights")
    values = {tuned._names[name]: value for name, value in tuned._values(weights).items()}

    def forward(batch: Batch) -> Tensor:
        logits: Tensor = functional_call(tuned, values, (batch,))
        return logits

    return forward
