"""RoBERTa with adapters, heads, soft prompts and bias vectors against the reference vectors of three papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification

from deltatune.core.backbone import wrap
from deltatune.core.delta import BitFit, Full, Head, Houlsby, SoftPrompt, attach, forward_with
from deltatune.core.legacy import infer_config, rename
from deltatune.core.weights import lerp

DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
INTEGER_BUFFER = "roberta.embeddings.position_ids"


def tensors(state):
    """Named tensors of a JSON state dict, without the integer buffer that the old library stored."""
    return {name: torch.tensor(values) for name, values in state.items() if name != INTEGER_BUFFER}


def under(archive, prefix):
    return {key.removeprefix(prefix): torch.tensor(archive[key]) for key in archive.files if key.startswith(prefix)}


def classifier(config, state, labels=None):
    """A classifier in memory that holds exactly `state`."""
    settings = {"hidden_act": "gelu"} | config | ({} if labels is None else {"num_labels": labels})
    model = RobertaForSequenceClassification(RobertaConfig(**DROPOUT, **settings))
    model.load_state_dict(state)
    return wrap(model)


def hidden_states(tuned, batch):
    """Embedding output and the output of every layer, as (L + 1, B, T, d), with logits."""
    states, encoder = [], tuned.model.base_model
    handles = [
        module.register_forward_hook(lambda m, a, out: states.append(out[0] if isinstance(out, tuple) else out))
        for module in (encoder.embeddings, *encoder.encoder.layer)
    ]
    with torch.no_grad():
        logits = tuned(batch)
    for handle in handles:
        handle.remove()
    return torch.stack(states), logits


def close(actual, expected, atol=1e-5, rtol=1e-5):
    torch.testing.assert_close(actual.detach().float(), torch.as_tensor(np.asarray(expected)).float(), atol=atol, rtol=rtol)


def recyclable_batch(entry):
    return {name: torch.tensor(entry[name]) for name in ("input_ids", "attention_mask")}


@pytest.mark.golden("recyclable", "adapter_forward_v02.json", "adapter_forward_v03.json")
@pytest.mark.parametrize(("version", "placement"), [("v02", "after_norm"), ("v03", "after_projection")])
def test_adapters_as_recyclable(golden, version, placement):
    entry = golden.case("recyclable", f"adapter_forward_{version}.json", "model")
    batch = recyclable_batch(entry)
    backbone = classifier(entry["config"], tensors(entry["backbone_state"]))
    plain = attach(backbone)
    close(plain(batch), entry["logits_without_adapter"])
    plain.detach()
    adapters = rename(tensors(entry["adapter_state"]))
    config = infer_config(adapters)
    assert (config.placement, config.activation, config.init_std) == (placement, "gelu_new", 0.01)
    tuned = attach(backbone, config)
    tuned.load({**{name: tuned.weights()[name] for name in tuned.head_names}, **adapters})
    states, logits = hidden_states(tuned, batch)
    close(logits, entry["logits"])
    close(states, entry["hidden_states"])
    # Adapters and head train; layer norms, which the published settings also list, do not (recyclable D20).
    trained = dict.fromkeys(entry["trainable_after_freeze"], torch.zeros(()))
    assert set(tuned.parameters_by_name()) == set(rename(trained))
    # Taking the adapters off leaves no trace.
    close(attach(tuned.detach())(batch), entry["logits_without_adapter"])


@pytest.mark.golden("recyclable", "kd_end_to_end.json")
def test_evaluation_loss_of_the_student_as_recyclable(golden):
    entry = golden("recyclable", "kd_end_to_end.json")
    tuned = attach(classifier(entry["config"], tensors(entry["student"])), Full())
    with torch.no_grad():
        loss = cross_entropy(tuned(recyclable_batch(entry)), torch.tensor(entry["labels"]))
    for case in entry["cases"]:
        assert float(loss) == pytest.approx(case["eval_loss"], rel=1e-5)


@pytest.mark.golden("modeconn", "roberta.npz", "roberta.json")
def test_classifier_with_adapters_as_modeconn(golden):
    archive, meta = golden("modeconn", "roberta.npz"), golden("modeconn", "roberta.json")
    facts, batch = meta["adapter"], under(archive, "in/")
    complete = under(archive, "adapter/")
    adapters = rename({name: value for name, value in complete.items() if ".adapter." in name})
    base = {name: value for name, value in complete.items() if ".adapter." not in name}
    backbone = classifier(meta["config"], base, labels=facts["num_labels"])
    tuned = attach(backbone, infer_config(adapters))
    start = {name: value for name, value in tuned.weights().items() if name not in tuned.head_names}
    matrices = torch.cat([value.flatten() for value in start.values() if value.dim() > 1])
    assert matrices.numel() == facts["init"]["n_weights"]
    assert float(matrices.std()) == pytest.approx(facts["init"]["weight_std"], rel=0.1)
    assert max(float(value.abs().max()) for value in start.values() if value.dim() == 1) == facts["init"]["bias_abs_max"]
    tuned.load({**{name: base[name] for name in tuned.head_names}, **adapters})
    states, logits = hidden_states(tuned, batch)
    close(logits, archive["out/adapter/logits"])
    close(states[-1], archive["out/adapter/last_hidden"])
    for names in (facts["trainable"], facts["saved"]):
        assert set(tuned.parameters_by_name()) == set(rename(dict.fromkeys(names, torch.zeros(()))))


@pytest.mark.golden("modeconn", "roberta.npz", "roberta.json")
@pytest.mark.parametrize(("task", "own_end"), [("mnli", 0), ("sst2", 1)])
def test_path_between_two_tasks_as_modeconn(golden, task, own_end):
    """Everything is mixed but the output projection, which is that of the task's own end."""
    archive, meta = golden("modeconn", "roberta.npz"), golden("modeconn", "roberta.json")
    facts, batch = meta["boundary"], under(archive, "in/")
    assert facts["head_from"][task] == f"endpoint {own_end + 1}"
    ends = [under(archive, "m1/"), under(archive, "m2/")]
    kept = {name: ends[own_end][name] for name in facts["not_interpolated"]}
    tuned = attach(classifier(meta["config"], {**ends[0], **kept}, labels=facts["num_labels"][task]), Full())
    base = tuned.model.state_dict()
    first, second = (
        {name: ({**end, **kept}[name] - (0 if name in tuned.head_names else base[name])) for name in tuned.parameters_by_name()}
        for end in ends
    )
    for k, x in enumerate(facts["x"]):
        with torch.no_grad():
            logits = forward_with(tuned, lerp(first, second, x))(batch)
        close(logits, archive[f"out/boundary/{task}/logits"][k])


def combos_backbone(golden):
    """The masked-LM model of combos in double precision, and the delta tensors under this project's names."""
    archive, settings = golden("combos", "forward_weights.npz"), golden("combos", "forward_config.json")
    config = RobertaConfig(**DROPOUT, **settings["config"], pad_token_id=1, bos_token_id=0, eos_token_id=2)
    model = RobertaForMaskedLM(config)
    assert {name: list(archive[name].shape) for name in archive.files} == settings["weights"]
    everything = rename({name: torch.tensor(archive[name]) for name in archive.files})
    deltas = {name: value for name, value in everything.items() if "houlsby" in name or name.endswith("soft_prompt")}
    base = {name: value for name, value in everything.items() if name not in deltas}
    embedding = base["roberta.embeddings.word_embeddings.weight"]
    model.load_state_dict({**base, "lm_head.decoder.weight": embedding, "lm_head.decoder.bias": base["lm_head.bias"]})
    tokenizer = type("Tokenizer", (), {"mask_token_id": 4})()
    return wrap(model.double(), tokenizer, form="prompt"), deltas, settings


def combos_tuned(golden, adapter):
    backbone, deltas, settings = combos_backbone(golden)
    configs = [SoftPrompt(length=settings["prompt_num"], position="template"), BitFit()]
    configs += [Houlsby(placement="after_dropout")] if adapter else []
    tuned = attach(backbone, *configs)
    assert {settings["adapter_bottleneck"]} == {
        value.shape[0] for name, value in tuned.weights().items() if name.endswith("houlsby_down.weight")
    } or not adapter
    bias = {name: torch.zeros_like(value) for name, value in tuned.weights().items() if name not in deltas}
    tuned.load({**{name: value for name, value in deltas.items() if name in tuned.parameters_by_name()}, **bias})
    return tuned.double()


def combos_batch(golden):
    archive = golden("combos", "forward.npz")
    return archive, {name: torch.tensor(archive[name]) for name in ("input_ids", "attention_mask")}


@pytest.mark.golden("combos", "forward.npz", "forward_config.json", "forward_weights.npz")
@pytest.mark.parametrize("variant", ["no_adapter", "adapter"])
def test_soft_prompt_and_scores_at_the_mask_as_combos(golden, variant):
    tuned = combos_tuned(golden, variant == "adapter")
    archive, batch = combos_batch(golden)
    embeddings, positions = tuned.model.roberta.embeddings, []
    embeddings.position_embeddings.register_forward_hook(lambda m, args, out: positions.append(args[0]))
    states, scores = hidden_states(tuned, batch)
    assert torch.equal(positions[0].expand(3, -1), torch.tensor(archive["position_ids"]))
    assert torch.equal(batch["input_ids"].eq(4).int().argmax(dim=1), torch.tensor(archive["mask_pos"])[:, 0])
    close(states[0], archive["embedding_output"], rtol=1e-4)
    close(scores, archive[f"mask_scores/{variant}"], rtol=1e-4)


@pytest.mark.golden("combos", "forward.npz", "forward_config.json", "forward_weights.npz")
@pytest.mark.parametrize(
    ("case", "words"),
    [("classification/no_adapter", 2), ("classification/adapter", 2), ("classification3/adapter", 3)],
)
def test_label_words_loss_and_gradients_as_combos(golden, case, words):
    tuned = combos_tuned(golden, not case.endswith("no_adapter"))
    archive, batch = combos_batch(golden)
    logits = tuned(batch)[:, torch.tensor(archive[f"label_words_{words}"])]
    close(logits, archive[f"{case}/output"], rtol=1e-4)
    loss = cross_entropy(logits, torch.tensor(archive[f"{case}/labels"]))
    assert float(loss.detach()) == pytest.approx(float(archive[f"{case}/loss"]), rel=1e-5)
    check_gradients(tuned, loss, under(archive, f"{case}/grad/"))


def check_gradients(tuned, loss, published):
    """Gradients of every published parameter; the reference lists all prompt, bias and adapter parameters."""
    if not published:
        return
    # The vocabulary bias has two names in the model; the reference uses the outer one.
    expected = {name.replace("lm_head.bias", "lm_head.decoder.bias"): value for name, value in rename(published).items()}
    parameters = tuned.parameters_by_name()
    assert set(parameters) == set(expected)
    loss.backward()
    for name, value in expected.items():
        close(parameters[name].grad, value, rtol=1e-4)


@pytest.mark.golden("combos", "forward.npz", "forward_config.json", "forward_weights.npz")
@pytest.mark.parametrize("variant", ["no_adapter", "adapter"])
def test_regression_and_its_divergence_as_combos(golden, variant):
    """Prediction, and gradients of the reference's loss, which is not the divergence that it is meant to be (combos D5)."""
    tuned = combos_tuned(golden, variant == "adapter")
    archive, batch = combos_batch(golden)
    low, high = golden("combos", "forward_config.json")["label_bounds"]
    words = torch.tensor(archive["label_words_2"])
    log_p = tuned(batch)[:, words].log_softmax(dim=1)
    close(low + (high - low) * log_p[:, 1:].exp(), archive[f"regression/{variant}/output"], rtol=1e-4)
    share = (torch.tensor(archive[f"regression/{variant}/labels"]).float() - low) / (high - low)
    target = torch.stack([1 - share, share], dim=1)
    loss = (target.exp() * (target - log_p)).mean()
    assert float(loss.detach()) == pytest.approx(float(archive[f"regression/{variant}/loss"]), rel=1e-5)
    check_gradients(tuned, loss, under(archive, f"regression/{variant}/grad/"))


def test_a_soft_prompt_is_part_of_no_other_forward_pass(golden):
    """Without negative ids in the text the table has no effect, and detaching leaves the model as it was."""
    archive, batch = combos_batch(golden)
    tuned = combos_tuned(golden, adapter=False)
    plain = {name: value[1:2] for name, value in batch.items()}
    alone = tuned(plain)
    close(alone, archive["mask_scores/no_adapter"][1:2], rtol=1e-4)
    with torch.no_grad():
        tuned.parameters_by_name()["roberta.embeddings.word_embeddings.soft_prompt"].fill_(7.0)
    assert torch.equal(tuned(plain), alone)
    backbone = tuned.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.model.modules())


def test_the_head_draws_first_so_every_delta_starts_from_one_head(golden):
    entry = golden.case("recyclable", "adapter_forward_v02.json", "model")
    backbone = classifier(entry["config"], tensors(entry["backbone_state"]))
    backbone.fresh = frozenset(name for name in entry["backbone_state"] if name.startswith("classifier"))
    heads = []
    for configs in ([Houlsby(width=2)], [BitFit()], [Full(), Head()]):
        tuned = attach(backbone, *configs, generator=torch.Generator().manual_seed(3))
        heads.append({name: tuned.weights()[name] for name in tuned.head_names})
        tuned.detach()
    assert all(torch.equal(heads[0][name], other[name]) for other in heads[1:] for name in heads[0])
