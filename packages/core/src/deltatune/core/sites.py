"""Where an architecture keeps its attention, feed-forward, embeddings and head.

One record per architecture. A delta asks a record for places and never names an architecture itself, so a new architecture is
a new record: here, or in a YAML file that a user passes as `--sites` (same field names; see `read_sites`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from deltatune.core.errors import DeltatuneError
from deltatune.core.yaml_files import read_yaml

Kind = Literal["self", "cross", "ffn"]


@dataclass(frozen=True)
class SubLayer:
    """One sub-layer of a block. Paths are relative to the block; after `Sites.sublayers` they are absolute.

    Args:
        kind: self-attention, cross-attention or feed-forward.
        projection: the linear map whose output enters the residual sum.
        dropout: the dropout between projection and residual sum; None where there is none.
        residual: the module whose output is the stream after the residual sum and its norm (post-norm architectures only).
        attention: the module that receives mask and cache (attention only).
        query: the query map.
        key: the key map.
        value: the value map.
        expand: the maps into the feed-forward's inner width (two when gated).
    """

    kind: Kind
    projection: str
    dropout: str | None = None
    residual: str | None = None
    attention: str | None = None
    query: str | None = None
    key: str | None = None
    value: str | None = None
    expand: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the kind: a record may come from a file."""
        if self.kind not in get_args(Kind):
            raise DeltatuneError(f"sites: unknown kind '{self.kind}' of a sub-layer; choose from {', '.join(get_args(Kind))}")

    def linears(self, role: str) -> tuple[str, ...]:
        """The linear maps that play `role` (query, key, value, output, expand, contract) here; empty if none does."""
        attention, ffn = self.kind != "ffn", self.kind == "ffn"
        found: dict[str, tuple[str | None, ...]] = {
            "query": (self.query,),
            "key": (self.key,),
            "value": (self.value,),
            "output": (self.projection,) if attention else (),
            "expand": self.expand,
            "contract": (self.projection,) if ffn else (),
        }
        if role not in found:
            raise DeltatuneError(f"lora.targets: unknown role '{role}'; choose from {', '.join(found)}")
        return tuple(path for path in found[role] if path)


@dataclass(frozen=True)
class Stack:
    """A chain of equal blocks.

    Args:
        path: the module that runs the chain.
        block: path of block `{i}`, relative to `path`.
        sublayers: the sub-layers of one block, in the order in which they run.
    """

    path: str
    block: str
    sublayers: tuple[SubLayer, ...]

    def __post_init__(self) -> None:
        """Check that blocks can be counted."""
        if "{i}" not in self.block:
            raise DeltatuneError(
                f"sites: block '{self.block}' of {self.path} has no {{i}} for the number; write such as layer.{{i}}"
            )


@dataclass(frozen=True)
class Sites:
    """The record of one architecture.

    Args:
        stacks: encoder before decoder.
        embedding: the word embedding that the input passes.
        head: path prefixes of what is new for each task (classification heads, poolers).
        lm_head: the module that turns states into vocabulary scores, for masked-LM prompting.
    """

    stacks: tuple[Stack, ...]
    embedding: str
    head: tuple[str, ...] = ()
    lm_head: str | None = None

    def blocks(self, model: nn.Module, stack: Stack) -> list[str]:
        """Absolute paths of the blocks that `model` has in `stack`, ascending.

        Raises:
            DeltatuneError: the model has none there, so the record does not describe it.
        """
        modules = dict(model.named_modules())
        found: list[str] = []
        while (path := f"{stack.path}.{stack.block.replace('{i}', str(len(found)))}") in modules:
            found.append(path)
        if not found:
            raise DeltatuneError(f"sites: {type(model).__name__} has no module {path}")
        return found

    def sublayers(self, model: nn.Module) -> Iterator[SubLayer]:
        """Every sub-layer with absolute paths: stacks in order, blocks ascending, sub-layers as they run."""
        for stack in self.stacks:
            for block in self.blocks(model, stack):
                for sublayer in stack.sublayers:
                    yield _absolute(sublayer, block)

    def is_head(self, name: str) -> bool:
        """Whether the parameter or module `name` belongs to a task head."""
        return any(name == prefix or name.startswith(prefix + ".") for prefix in self.head)


def _absolute(sublayer: SubLayer, block: str) -> SubLayer:
    changed: dict[str, Any] = {}
    for field in fields(sublayer):
        value = getattr(sublayer, field.name)
        if field.name == "expand":
            changed["expand"] = tuple(f"{block}.{path}" for path in value)
        elif field.name != "kind" and value is not None:
            changed[field.name] = f"{block}.{value}"
    return replace(sublayer, **changed)


def _bert_like(base: str, lm_head: str) -> Sites:
    attention = SubLayer(
        kind="self",
        projection="attention.output.dense",
        dropout="attention.output.dropout",
        residual="attention",
        attention="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
    )
    ffn = SubLayer(
        kind="ffn",
        projection="output.dense",
        dropout="output.dropout",
        residual="output",
        expand=("intermediate.dense",),
    )
    stack = Stack(path=f"{base}.encoder", block="layer.{i}", sublayers=(attention, ffn))
    embedding = f"{base}.embeddings.word_embeddings"
    return Sites(stacks=(stack,), embedding=embedding, head=("classifier", f"{base}.pooler"), lm_head=lm_head)


def _t5(gated: bool) -> Sites:
    def attention(kind: Kind, layer: int, name: str) -> SubLayer:
        inner = f"layer.{layer}.{name}"
        return SubLayer(
            kind=kind,
            projection=f"{inner}.o",
            dropout=f"layer.{layer}.dropout",
            attention=inner,
            query=f"{inner}.q",
            key=f"{inner}.k",
            value=f"{inner}.v",
        )

    def ffn(layer: int) -> SubLayer:
        inner = f"layer.{layer}.DenseReluDense"
        expand = (f"{inner}.wi_0", f"{inner}.wi_1") if gated else (f"{inner}.wi",)
        return SubLayer(kind="ffn", projection=f"{inner}.wo", dropout=f"layer.{layer}.dropout", expand=expand)

    encoder = (attention("self", 0, "SelfAttention"), ffn(1))
    decoder = (attention("self", 0, "SelfAttention"), attention("cross", 1, "EncDecAttention"), ffn(2))
    return Sites(
        stacks=(Stack("encoder", "block.{i}", encoder), Stack("decoder", "block.{i}", decoder)),
        embedding="encoder.embed_tokens",
    )


SITES: dict[str, Sites] = {
    "bert": _bert_like("bert", lm_head="cls"),
    "roberta": _bert_like("roberta", lm_head="lm_head"),
    "xlm-roberta": _bert_like("roberta", lm_head="lm_head"),
    "t5": _t5(gated=False),
    "t5-gated": _t5(gated=True),
}


def sites_of(model_config: Any) -> Sites:
    """The record for a transformers configuration.

    Raises:
        DeltatuneError: no record for this `model_type`.
    """
    kind = model_config.model_type
    if kind == "t5" and model_config.is_gated_act:
        kind = "t5-gated"
    if kind not in SITES:
        known = ", ".join(sorted({name.removesuffix("-gated") for name in SITES}))
        raise DeltatuneError(f"model: architecture '{kind}' has no record (known: {known}); describe it with --sites FILE.yaml")
    return SITES[kind]


def read_sites(path: Path) -> Sites:
    """A user's record from YAML with the field names of `Sites`, `Stack` and `SubLayer`.

    Raises:
        DeltatuneError: not YAML, an unknown or a missing field, a text where a list belongs, an unknown kind of sub-layer.
    """
    return sites_from(read_yaml(path), str(path))


def sites_from(raw: Any, where: str) -> Sites:
    """The record in plain values `raw`, as YAML and JSON give them; `where` they stand is named in errors (as `read_sites`)."""
    try:
        stacks = tuple(
            Stack(**{**stack, "sublayers": tuple(_sublayer(item) for item in stack["sublayers"])}) for stack in raw["stacks"]
        )
        return Sites(**{**raw, "stacks": stacks, "head": _names(raw, "head")})
    except DeltatuneError as error:
        raise DeltatuneError(f"{where}: {error}") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise DeltatuneError(f"{where}: not a sites record ({error}); fields: see `deltatune.core.sites.Sites`") from error


def _sublayer(raw: dict[str, Any]) -> SubLayer:
    return SubLayer(**{**raw, "expand": _names(raw, "expand")})


def _names(raw: dict[str, Any], field: str) -> tuple[str, ...]:
    """A list of names; a lone text would fall apart into its letters."""
    value = raw.get(field) or ()
    if isinstance(value, str):
        raise DeltatuneError(f"sites: {field} is the text '{value}' and must be a list; write [{value}]")
    return tuple(value)


def head_width(model_config: Any) -> int:
    """Width of one attention head in scalars."""
    for name in ("d_kv", "head_dim"):
        if getattr(model_config, name, None):
            return int(getattr(model_config, name))
    return int(model_config.hidden_size // model_config.num_attention_heads)
