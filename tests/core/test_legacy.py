"""Files of the published programs: read without running anything in them, and mapped onto the deltas here."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification, T5Config, T5ForConditionalGeneration

from deltatune.core import checkpoint
from deltatune.core.backbone import untie, wrap
from deltatune.core.delta import Houlsby, LoRA, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.legacy import Inert, read_pickle, read_published, read_tensors, rename

KINDS = ("adapter", "lora", "prefix")


class Runs:
    """Unpickling it calls a function: what an attacker puts into a file."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def random_tensors(shapes):
    generator = torch.Generator().manual_seed(2)
    return OrderedDict((name, torch.randn(shape, generator=generator)) for name, shape in shapes.items())


@pytest.fixture
def t5():
    """One block a stack, of the sizes in `checkpoint_layout.json`."""
    sizes = {"vocab_size": 12, "d_model": 4, "d_kv": 2, "num_heads": 2, "d_ff": 8, "num_layers": 1}
    return wrap(untie(T5ForConditionalGeneration(T5Config(feed_forward_proj="gated-gelu", **sizes))), name="t5")


@pytest.fixture
def opendelta(golden):
    """`opendelta(version)`: a classifier, and the adapters and head that OpenDelta saved for it."""

    def make(version):
        entry = golden.case("recyclable", f"adapter_forward_{version}.json", "model")
        base = {name: torch.tensor(value) for name, value in entry["backbone_state"].items()}
        model = RobertaForSequenceClassification(RobertaConfig(**entry["config"]))
        head = {name: value for name, value in base.items() if name.startswith("classifier.")}
        model.load_state_dict({name: value for name, value in base.items() if name not in head}, strict=False)
        adapters = {name: torch.tensor(value) for name, value in entry["adapter_state"].items()}
        return wrap(model, name="tiny"), adapters, head, base, entry

    return make


@pytest.fixture
def published(golden, tmp_path):
    """`published(kind, **others)`: a file as the T5 programs wrote it, its objects pickled under their true module paths."""

    def make(kind, **others):
        layout = golden("ensemble", "checkpoint_layout.json")["checkpoints"][kind]
        tensors = random_tensors(layout["parameters"])
        content = {
            kind: tensors,
            "optimizer": {"state": {0: {"step": 41, "exp_avg_sq_row": torch.ones(4)}}, "param_groups": [{"lr": 5e-4}]},
            "scheduler": None,
            "config": T5Config(),
            "args": vars(Namespace(tune_method=layout["args_tune_method"])),
            "current_state": layout["current_state"],
        }
        assert sorted(content) == sorted(layout["top_level_keys"])
        torch.save(content | others, tmp_path / "checkpoint-best.pt")
        return tmp_path / "checkpoint-best.pt", tensors, layout

    return make


@pytest.mark.golden("ensemble", "checkpoint_layout.json")
@pytest.mark.parametrize("kind", KINDS)
def test_published_t5_deltas_become_delta_folders(kind, published, t5, tmp_path):
    path, tensors, layout = published(kind)
    saved = read_published(path, t5)
    [config] = saved.configs
    expected = {
        "adapter": Houlsby(width=2, bias=False),
        "lora": LoRA(rank=2, alpha=16.0, init="fan_rank"),
        "prefix": Prefix(length=2, width=2),
    }
    assert config == expected[kind]
    # Every published tensor is there once, the pairs of factors the other way round: (in, out) there, (out, in) here.
    names = {name: next(iter(rename({name: tensor}))) for name, tensor in tensors.items()}
    assert set(names.values()) == set(saved.weights)
    for name, tensor in tensors.items():
        stored = saved.weights[names[name]]
        assert torch.equal(stored, tensor if kind == "prefix" else tensor.T)
    tuned = attach(t5, config)
    assert set(rename(dict.fromkeys(layout["trainable"], torch.zeros(1, 1)))) == set(tuned.parameters_by_name())
    tuned.detach()
    assert (saved.head, saved.path, saved.about) == ((), path, {"imported": {"from": str(path)}})
    checkpoint.write(tmp_path / "delta", saved)
    loaded = checkpoint.load(tmp_path / "delta", t5)
    assert all(torch.equal(tensor, saved.weights[name]) for name, tensor in loaded.weights().items())


@pytest.mark.parametrize("key", ["adapter", "lora", "prefix", "model", None])
def test_tensors_are_found_under_the_known_keys_and_bare(key, tmp_path):
    tensors = random_tensors({"a.weight": (2, 3), "b": (4,)})
    torch.save({key: tensors, "args": Namespace(seed=1)} if key else tensors, tmp_path / "x.pt")
    found = read_tensors(tmp_path / "x.pt")
    assert list(found) == list(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_objects_in_a_file_are_inert(tmp_path):
    content = {
        "config": T5Config(),
        "deeper": {"roberta": RobertaConfig()},
        "args": Namespace(lora_alpha=8, output_dir="x"),
        "a": 1,
    }
    torch.save(content, tmp_path / "x.pt")
    allowed = torch.serialization.get_safe_globals()
    found = read_pickle(tmp_path / "x.pt")
    assert type(found["config"]) is type(found["args"]) is type(found["deeper"]["roberta"]) is Inert
    assert (vars(found["args"]), found["a"]) == ({"lora_alpha": 8, "output_dir": "x"}, 1)
    # Only while such a file is read, and only for it.
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, t5):
    mark = tmp_path / "ran"
    command = f"touch {shlex.quote(str(mark))}"
    attacks = {
        "bare": Runs(os.system, command),
        "under a key": {"adapter": Runs(os.system, command)},
        "beside tensors": {"adapter": random_tensors({"a": (2,)}), "args": Runs(os.system, command)},
        "in a namespace": {"adapter": random_tensors({"a": (2,)}), "args": Namespace(x=Runs(os.system, command))},
        "by eval": {"config": Runs(eval, f"__import__('os').system({command!r})")},
        "by a method": {"config": Runs(type(mark).touch, mark)},
    }
    for name, content in attacks.items():
        torch.save(content, tmp_path / f"{name}.pt")
        for read in (read_pickle, read_tensors, lambda path: read_published(path, t5)):
            with pytest.raises(DeltatuneError, match="refused, it is damaged or would run code") as error:
                read(tmp_path / f"{name}.pt")
            assert "\n" not in str(error.value)
        assert not mark.exists()
    torch.load(tmp_path / "bare.pt", weights_only=False)
    assert mark.exists()  # the attack itself works


def test_what_is_not_such_a_file_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(DeltatuneError, match="no such file"):
        read_pickle(path)
    torch.save({"a": torch.ones(50)}, path)
    for damaged in (path.read_bytes()[:200], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DeltatuneError, match="damaged"):
            read_pickle(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(DeltatuneError, match="holds a list, not named tensors"):
        read_pickle(path)
    torch.save({"current_state": {"epoch": 3}}, path)
    with pytest.raises(DeltatuneError, match="no named tensors found; keys are current_state"):
        read_tensors(path)


@pytest.mark.golden("recyclable", "adapter_forward_v02.json", "adapter_forward_v03.json")
@pytest.mark.parametrize(("version", "placement"), [("v02", "after_norm"), ("v03", "after_projection")])
def test_adapters_of_opendelta_come_with_their_head(version, placement, opendelta, tmp_path):
    backbone, adapters, head, base, entry = opendelta(version)
    batch = {key: torch.tensor(entry[key]) for key in ("input_ids", "attention_mask")}
    # The adapters alone, and as the distillation runs saved them: with the whole model, buffers included.
    for state in (adapters | head, base | adapters):
        torch.save(OrderedDict(state), tmp_path / "pytorch_model.bin")
        saved = read_published(tmp_path / "pytorch_model.bin", backbone)
        assert [type(config).__name__ for config in saved.configs] == ["Houlsby", "Head"]
        width = next(value.shape[0] for name, value in adapters.items() if name.endswith("down_proj.weight"))
        assert (saved.configs[0].placement, saved.configs[0].width) == (placement, width)
        assert set(saved.head) == set(head)
        assert all(torch.equal(saved.weights[name], head[name]) for name in head)
        tuned = checkpoint.attach_saved(saved, backbone)
        with torch.no_grad():
            torch.testing.assert_close(tuned(batch), torch.tensor(entry["logits"]), rtol=1e-5, atol=1e-6)
        tuned.detach()


@pytest.mark.golden("combos", "forward_config.json", "forward_weights.npz")
def test_prompt_and_adapters_of_combos_are_two_deltas(golden, tmp_path):
    settings, archive = golden("combos", "forward_config.json"), golden("combos", "forward_weights.npz")
    state = {name: torch.tensor(archive[name]) for name in archive.files}
    extra = {name: value for name, value in state.items() if "adapter_" in name or "prompt_" in name}
    model = RobertaForMaskedLM(RobertaConfig(pad_token_id=1, **settings["config"]))
    model.load_state_dict({name: value for name, value in state.items() if name not in extra}, strict=False)
    backbone = wrap(model, name="tiny", form="prompt")
    for content in (extra, state):
        torch.save(content, tmp_path / "stage.pt")
        saved = read_published(tmp_path / "stage.pt", backbone)
        bottleneck = settings["adapter_bottleneck"]
        assert saved.configs == (
            SoftPrompt(length=settings["prompt_num"], position="template"),
            Houlsby(width=bottleneck, placement="after_dropout"),
        )
        tuned = attach(backbone, *saved.configs)
        assert set(saved.weights) == set(rename(extra)) == set(tuned.parameters_by_name())
        tuned.detach()
        block = "roberta.encoder.layer.1.attention.output"
        there = extra[f"{block}.attention_text_task_adapters.PBAdapter.adapter_down.0.weight"]
        assert torch.equal(saved.weights[f"{block}.dropout.houlsby_down.weight"], there)
        table = extra["roberta.embeddings.prompt_embeddings.weight"]
        assert torch.equal(saved.weights["roberta.embeddings.word_embeddings.soft_prompt"], table)


def test_a_tuned_whole_model_is_no_delta(opendelta, tmp_path):
    backbone, adapters, _, base, _ = opendelta("v02")
    path = tmp_path / "pytorch_model.bin"
    name = "roberta.encoder.layer.0.output.dense.bias"
    torch.save(base | adapters | {name: base[name] + 1}, path)
    with pytest.raises(DeltatuneError, match=f"also holds {name} with other values than tiny has"):
        read_published(path, backbone)
    torch.save(base, path)
    with pytest.raises(DeltatuneError, match="no published delta has names like"):
        read_published(path, backbone)


def test_missing_and_extra_tensors_are_named(opendelta, tmp_path):
    backbone, adapters, head, _, _ = opendelta("v02")
    path = tmp_path / "pytorch_model.bin"
    first = next(iter(adapters))
    torch.save({name: value for name, value in adapters.items() if name != first} | {"strange.weight": torch.ones(1)}, path)
    with pytest.raises(DeltatuneError, match=r"missing roberta\.encoder\.layer\.0.* extra strange\.weight \(1 in all\)") as error:
        read_published(path, backbone)
    assert str(error.value).startswith(str(path))
    assert not any(module._forward_hooks for module in backbone.model.modules())
    torch.save(
        adapters | {"classifier.out_proj.weight": torch.ones(7, 8), **{n: v for n, v in head.items() if "dense" in n}}, path
    )
    with pytest.raises(DeltatuneError, match=r"classifier\.out_proj\.weight is \(3, 8\) here and \(7, 8\) there"):
        read_published(path, backbone)


def test_a_file_without_a_head_gives_a_delta_without_one(opendelta, tmp_path):
    backbone, adapters, _, _, _ = opendelta("v03")
    torch.save(adapters, tmp_path / "x.pt")
    saved = read_published(tmp_path / "x.pt", backbone)
    assert (saved.head, len(saved.configs), len(saved.weights)) == ((), 1, len(adapters))


@pytest.mark.parametrize("args", [{"lora_alpha": 32}, Namespace(lora_alpha=32)])
def test_the_scale_of_lora_is_the_program_s(args, published, t5):
    path, _, _ = published("lora", args=args)
    assert read_published(path, t5).configs == (LoRA(rank=2, alpha=32.0, init="fan_rank"),)
