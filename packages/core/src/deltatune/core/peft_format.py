"""Exchange with PEFT: adapter folders that it loads with the same logits, and reading those that it wrote.

What PEFT computes alike, and under which conditions:

* LoRA, any targets, the task head as `modules_to_save`; its rank-stabilised scaling alpha / sqrt(r) is an alpha of our own. *
SoftPrompt in front of the text. PEFT passes embeddings where deltatune passes token ids, so a model that looks for padding in
  the ids finds none: with PEFT, RoBERTa needs its padding on the right, and a decoder that classifies needs texts of one
  length.
* Prefix on a single stack with `positions="after"`, the reparametrisation folded in. PEFT's prefix of T5 has no encoder part.

Everything else is refused in one line that names the difference. PEFT itself is never imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from deltatune.core import checkpoint, legacy
from deltatune.core.adapter_config import head_modules, lora_config, peft_task
from deltatune.core.backbone import Backbone
from deltatune.core.checkpoint import CONFIG, TENSORS, Saved
from deltatune.core.delta import DeltaConfig, Head, LoRA, Prefix, SoftPrompt
from deltatune.core.delta.lora import Role
from deltatune.core.delta.prefix import StackPrefix
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, replacing, write_json, write_text
from deltatune.core.sites import head_width

PROMPT, PROMPT_PREFIX = "prompt_embeddings", "base_model."
PICKLE, CARD = "adapter_model.bin", "README.md"
_FACTOR = re.compile(r"\.lora_[AB]\.weight$")
_NOT_IN_PEFT = {"Houlsby": "PEFT has no bottleneck adapters", "BitFit": "PEFT cannot tune bias vectors alone"}
_CHANGES_BASE = "PEFT stores added tensors, not changes of the base; use `merge`"
# Options that do not change what a trained adapter computes, or that are read below; all others must be empty.
_COMMON = "peft_type task_type auto_mapping peft_version base_model_name_or_path revision inference_mode modules_to_save "
_PROMPTED = "num_virtual_tokens token_dim num_transformer_submodules num_attention_heads num_layers "
_READ = {
    "LORA": "r target_modules exclude_modules lora_alpha lora_dropout use_rslora init_lora_weights layers_to_transform "
    "layers_pattern megatron_core eva_config qalora_group_size ensure_weight_tying",
    "PROMPT_TUNING": _PROMPTED + "prompt_tuning_init prompt_tuning_init_text tokenizer_name_or_path tokenizer_kwargs",
    "PREFIX_TUNING": _PROMPTED + "init_weights encoder_hidden_size prefix_projection",
}
_NEEDED = {"LORA": ("r", "lora_alpha"), "PROMPT_TUNING": ("num_virtual_tokens",), "PREFIX_TUNING": ("num_virtual_tokens",)}
# Starts of LoRA that leave the base as it is; the others subtract something from its weights.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")

Content = tuple[DeltaConfig, dict[str, Tensor]]


def export(source: Path | Saved, out_dir: Path, backbone: Backbone | None = None, card: str = "") -> Path:
    """Write a delta as a folder that `peft.PeftModel.from_pretrained(model, out_dir)` loads.

    Args:
        source: a run, RUN@STEP or a delta folder; or a delta in memory.
        out_dir: the folder to write; new, empty, or an earlier export.
        backbone: the model that the delta was tuned on; a Prefix needs it.
        card: text of its `README.md`, if there is to be one.

    Returns:
        `out_dir`.

    Raises:
        DeltatuneError: PEFT does not compute this delta, or not alike; nothing is written.
    """
    saved = source if isinstance(source, Saved) else checkpoint.read(source)
    kinds = [config for config in saved.configs if not isinstance(config, Head)]
    if len(kinds) != 1:
        named = " and ".join(type(config).__name__ for config in kinds) or "a task head alone"
        raise DeltatuneError(f"export: a PEFT adapter is one delta with its head, and this is {named}; tune one delta")
    [config] = kinds
    if isinstance(config, LoRA):
        described, tensors = (
            lora_config(config, saved),
            {checkpoint.PREFIX + name: w for name, w in saved.weights.items()},
        )
    elif isinstance(config, SoftPrompt):
        described, tensors = _prompt_learning(saved, "PROMPT_TUNING", *_prompt_rows(config, saved))
    elif isinstance(config, Prefix):
        described, tensors = _prompt_learning(saved, "PREFIX_TUNING", *_prefix_rows(config, saved, backbone))
    else:
        name = type(config).__name__
        raise DeltatuneError(f"export: {name}: {_NOT_IN_PEFT.get(name, _CHANGES_BASE)}")
    checkpoint.require_finite(tensors, "export")
    if out_dir.exists() and (out_dir.is_file() or {path.name for path in out_dir.iterdir()} - {CONFIG, TENSORS, CARD}):
        raise DeltatuneError(f"export: {out_dir} holds other files; choose another --out_dir")
    with replacing(out_dir) as folder:
        folder.mkdir()
        save_file({name: w.contiguous() for name, w in tensors.items()}, folder / TENSORS, metadata={"format": "pt"})
        write_json(folder / CONFIG, described)
        if card:
            write_text(folder / CARD, card)
    return out_dir


def import_adapter(folder: Path, backbone: Backbone) -> Saved:
    """Read an adapter that PEFT wrote: LoRA, prompt tuning or prefix tuning, with its head.

    A head tensor that the file lacks (PEFT leaves the pooler of a BERT to the base) is taken from the base.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`, or `adapter_model.bin`, which is read
            weights-only.
        backbone: the model that the adapter belongs to; nothing stays attached to it.

    Returns:
        What `checkpoint.write` stores. `about["imported"]` says where it is from, and `other_base_name` in it whether the
        adapter names another base than `backbone`.

    Raises:
        DeltatuneError: not an adapter of PEFT, an option or a target without a counterpart here, or names and shapes that the
            model does not have.
    """
    described = _config(folder)
    kind, name = described["peft_type"], described.get("base_model_name_or_path")
    readers: dict[str, Callable[..., Content]] = {"LORA": _lora, "PROMPT_TUNING": _soft_prompt, "PREFIX_TUNING": _prefix}
    if kind not in readers:
        raise DeltatuneError(f"{folder}: peft_type {kind} has no counterpart here; only {', '.join(readers)} can be read")
    _check_options(folder, kind, described)
    tensors = _tensors(folder)
    rows = described.get("num_virtual_tokens", 0)
    if kind != "LORA" and (PROMPT not in tensors or tensors[PROMPT].dim() != 2 or tensors[PROMPT].shape[0] < rows):
        raise DeltatuneError(f"{folder}: no {PROMPT} of {rows} rows; the adapter is damaged")
    config, weights = readers[kind](folder, described, tensors, backbone)
    about = {"from": str(folder), "peft_type": kind, "peft_version": described.get("peft_version")}
    about |= {"base_model_name_or_path": name, "other_base_name": bool(name) and name != backbone.name}
    return legacy.to_saved(backbone, (config,), weights, {"imported": about}, folder)


def num_labels(path: Path) -> int | None:
    """How many classes the head in a PEFT folder or a published `.pt` file has, for loading the model; None without a head."""
    for name, tensor in (legacy.read_tensors(path) if path.is_file() else _tensors(path)).items():
        if re.search(r"(^|\.)(classifier|classifier\.out_proj|score)\.weight$", name):
            return int(tensor.shape[0])
    return None


def _prompt_learning(saved: Saved, kind: str, rows: Tensor, sizes: dict[str, int]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    task = peft_task(saved)
    if task is None:
        form = saved.base["form"]
        raise DeltatuneError(f"export: PEFT puts prompts before text-to-text models and heads of classifiers, not form '{form}'")
    described = {"peft_type": kind, "task_type": task, "base_model_name_or_path": saved.base["name"], "inference_mode": True}
    described |= {"num_virtual_tokens": rows.shape[0], "num_transformer_submodules": 1}
    described |= {"modules_to_save": head_modules(saved.head) or None}
    return described | sizes, {PROMPT: rows, **{PROMPT_PREFIX + name: saved.weights[name] for name in saved.head}}


def _prompt_rows(config: SoftPrompt, saved: Saved) -> tuple[Tensor, dict[str, int]]:
    position = config.position
    if position == "auto":
        position = "start" if saved.base["form"] == "text" else "after_first"
    if position != "start":
        place = {"after_first": "behind the first token", "template": "where the template says"}[position]
        raise DeltatuneError(f"export: PEFT puts a soft prompt before the first token, and this one stands {place}")
    rows = next(w for name, w in saved.weights.items() if name.endswith(".soft_prompt"))
    return rows, {"token_dim": rows.shape[1]}


def _prefix_rows(config: Prefix, saved: Saved, backbone: Backbone | None) -> tuple[Tensor, dict[str, int]]:
    """Keys and values as PEFT lays them out, (P, 2 * layers * heads * width), reparametrisation folded in."""
    if backbone is None:
        raise DeltatuneError("export: the layers and heads of a Prefix are known to its model only; give --model")
    _require_one_stack(backbone, "export")
    if config.positions != "after":
        raise DeltatuneError(
            "export: PEFT counts the text's positions from behind the prefix, and this Prefix does not; "
            "tune it with --delta.positions after"
        )
    checkpoint.require_base(saved, backbone)
    delta = config.build(backbone, torch.Generator())
    [part] = [part for _, part in delta.parts() if isinstance(part, StackPrefix)]
    with torch.no_grad():
        for name, internal in delta.names().items():
            delta.get_parameter(internal).copy_(saved.weights[name])
        keys_values = part.keys_values().cpu()
    layers, _, heads, length, width = keys_values.shape
    sizes = {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * width}
    return keys_values.permute(3, 0, 1, 2, 4).reshape(length, -1), sizes


def _require_one_stack(backbone: Backbone, where: str) -> None:
    if len(backbone.sites.stacks) > 1:
        kind = backbone.model.config.model_type
        raise DeltatuneError(f"{where}: a Prefix on {kind} has a part in the encoder, and PEFT's reaches the decoder only")


def _config(folder: Path) -> dict[str, Any]:
    if (folder / checkpoint.ABOUT).is_file():
        raise DeltatuneError(f"{folder}: a delta folder of deltatune already; use it as it is")
    described = read_json(folder / CONFIG)
    if isinstance(described, dict) and "peft_type" in described:
        return described
    raise DeltatuneError(
        f"{folder / CONFIG}: no peft_type, so this is an adapter of the `adapters` library and not of PEFT; its layers differ, "
        "train it again with PEFT or deltatune"
    )


def _tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / TENSORS).is_file():
        return checkpoint.read_tensors(folder / TENSORS)
    if (folder / PICKLE).is_file():
        return {name: w.float() for name, w in legacy.read_pickle(folder / PICKLE).items() if isinstance(w, Tensor)}
    raise DeltatuneError(f"{folder}: neither {TENSORS} nor {PICKLE} is there; give the whole folder that PEFT wrote")


def _check_options(folder: Path, kind: str, described: dict[str, Any]) -> None:
    known = (_COMMON + _READ[kind]).split()
    for key in _NEEDED[kind]:
        if described.get(key) is None:
            raise DeltatuneError(f"{folder / CONFIG}: no {key}, which PEFT writes for {kind}; the file is damaged")
    strange = {key: value for key, value in described.items() if value and key not in known and (key, value) != ("bias", "none")}
    if described.get("init_lora_weights", True) not in _STARTS:
        strange["init_lora_weights"] = described["init_lora_weights"]
    for key, value in strange.items():
        raise DeltatuneError(f"{folder}: the option {key} = {value!r} of PEFT has no counterpart here; train without it")


def _head(folder: Path, tensors: dict[str, Tensor], prefix: str, backbone: Backbone) -> dict[str, Tensor]:
    """The tensors that are not the delta's own, which must be the task head's."""
    head = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name != PROMPT}
    for name in head:
        if not backbone.sites.is_head(name):
            raise DeltatuneError(f"{folder}: {name} is of no linear map and not of the head (see modules_to_save); leave it out")
    return head


def _lora(folder: Path, described: dict[str, Any], tensors: dict[str, Tensor], backbone: Backbone) -> Content:
    # The names in the file say which modules PEFT adapted, whatever list, pattern or shorthand target_modules was.
    weights = {name.removeprefix(checkpoint.PREFIX): w for name, w in tensors.items() if _FACTOR.search(name)}
    rest = {name: w for name, w in tensors.items() if not _FACTOR.search(name)}
    head = _head(folder, rest, checkpoint.PREFIX, backbone)
    paths = {_FACTOR.sub("", name) for name in weights}
    if not paths:
        raise DeltatuneError(f"{folder}: {TENSORS} holds no lora_A.weight; the adapter is damaged")
    roles = {
        path: role
        for sublayer in backbone.sites.sublayers(backbone.model)
        for role in get_args(Role)
        for path in sublayer.linears(role)
    }
    for path in sorted(paths):
        if path not in roles:
            raise DeltatuneError(f"{folder}: target_modules: {path} is none of {', '.join(get_args(Role))} in {backbone.name}")
    used = {roles[path] for path in paths}
    for path, role in roles.items():
        if role in used and path not in paths:
            raise DeltatuneError(
                f"{folder}: target_modules: some {role} maps are adapted and {path} is not; it is all or none here"
            )
    rank, alpha = described["r"], float(described["lora_alpha"])
    config = LoRA(
        rank=rank,
        alpha=alpha * sqrt(rank) if described.get("use_rslora") else alpha,
        targets=tuple(role for role in get_args(Role) if role in used),
        dropout=described.get("lora_dropout", 0.0),
    )
    return config, weights | head


def _soft_prompt(folder: Path, described: dict[str, Any], tensors: dict[str, Tensor], backbone: Backbone) -> Content:
    # For text-to-text models PEFT stores rows for the decoder as well, and reads those of the encoder only.
    length = described["num_virtual_tokens"]
    rows = {f"{backbone.sites.embedding}.soft_prompt": tensors[PROMPT][:length]}
    return SoftPrompt(length=length, position="start"), rows | _head(folder, tensors, PROMPT_PREFIX, backbone)


def _prefix(folder: Path, described: dict[str, Any], tensors: dict[str, Tensor], backbone: Backbone) -> Content:
    _require_one_stack(backbone, str(folder))
    [stack] = backbone.sites.stacks
    layers, width = len(backbone.sites.blocks(backbone.model, stack)), head_width(backbone.model.config)
    flat, length = tensors[PROMPT], described["num_virtual_tokens"]
    if flat.shape[0] != length or flat.shape[1] % (2 * layers * width):
        raise DeltatuneError(f"{folder}: {PROMPT} {tuple(flat.shape)} do not fit {layers} layers of heads of width {width}")
    rows = {f"{stack.path}.prefix_embedding": flat}
    config = Prefix(length=length, width=None, layout="split", positions="after")
    return config, rows | _head(folder, tensors, PROMPT_PREFIX, backbone)
