"""The contract on a GPU and in bf16; what needs a GPU is skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from deltatune.core.delta import Full, attach, forward_with

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def on(device, batch):
    return {key: tensor.to(device) for key, tensor in batch.items()}


def base_logits(name, model, batch, autocast):
    """What the model says without any delta; at the mask for the form prompt."""
    inputs = {key: t for key, t in batch.items() if key != "labels" or name.endswith("-text")}
    with torch.no_grad(), torch.autocast(batch["input_ids"].device.type, dtype=torch.bfloat16, enabled=autocast):
        logits = model(**inputs).logits.float()
    return logits[batch["input_ids"] == 4] if name.endswith("-prompt") else logits


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_is_as_near_to_fp32_as_autocast(tiny_model, tiny, name, config, batch, device):
    """Deltas that start as the identity, against the unattached model under plain autocast."""
    backbone = tiny(name, precision="bf16")
    backbone.model.to(device)
    tuned, batch = attach(backbone, config), on(device, batch)
    if not all(delta.identity_at_start for delta in tuned.kinds()):
        pytest.skip("does not start at the base model")
    model = tiny_model(name).to(device)
    exact, autocast = base_logits(name, model, batch, False), base_logits(name, model, batch, True)
    with torch.no_grad():
        logits = tuned(batch)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact)  # bf16 was used
    torch.testing.assert_close(logits, autocast, atol=1e-2 * float(exact.abs().max()), rtol=0)
    assert (logits - exact).norm() <= 1.5 * (autocast - exact).norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", DEVICES)
def test_training_leaves_the_base_bit_equal(tiny, name, config, batch, loss_of, stir, device, precision):
    backbone = tiny(name, precision=precision)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    backbone.model.to(device)
    tuned, batch = attach(backbone, config), on(device, batch)
    assert all(p.device.type == device and p.dtype == torch.float32 for p in tuned.parameters())
    parameters = tuned.parameters_by_name()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    start = tuned.weights()
    loss_of(tuned(batch), batch["labels"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters.values())
    optimizer.step()
    weights = tuned.weights()
    assert any(not torch.equal(weights[key], start[key]) for key in start)
    with torch.no_grad():
        after = tuned(batch)
        tuned.load(start)
        tolerance = 1e-5 if precision == "fp32" else 2e-2 * float(after.abs().max())
        torch.testing.assert_close(forward_with(tuned, weights)(batch), after, atol=tolerance, rtol=0)
    now = backbone.model.state_dict()
    assert all(value.dtype == before[key].dtype for key, value in now.items())
    assert all(torch.equal(now[key].cpu(), before[key]) for key in before)
    tuned.detach()
    with torch.no_grad():  # after bf16 the model itself still computes in fp32
        plain = base_logits(name, backbone.model, batch, False)
        torch.testing.assert_close(base_logits(name, tiny(name).model, on("cpu", batch), False), plain.cpu(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_seed_and_weights_on_every_device(tiny, name, config, batch, stir, device):
    here, there = tiny(name), tiny(name)
    there.model.to(device)
    near, far = attach(here, config), attach(there, config)
    start = near.weights()
    assert all(torch.equal(w.cpu(), start[key]) for key, w in far.weights().items())
    far.load(stir(near))
    with torch.no_grad():
        torch.testing.assert_close(far(on(device, batch)).cpu(), near(batch), atol=1e-4, rtol=1e-4)


def test_bf16_full_does_not_round_what_it_trains(tiny, batch_for):
    """Tied tables: neither the word table nor its alias in the vocabulary scores may become bf16 copies of the old values."""
    for family in ("t5-text", "roberta-prompt"):
        tuned = attach(tiny(family, precision="bf16"), Full())
        batch = batch_for(family)
        with torch.no_grad():
            before = tuned(batch)
            table = "shared.weight" if family == "t5-text" else "roberta.embeddings.word_embeddings.weight"
            tuned.load({key: w + (0.5 if key == table else 0.0) for key, w in tuned.weights().items()})
            assert not torch.allclose(tuned(batch), before, atol=1e-2)
