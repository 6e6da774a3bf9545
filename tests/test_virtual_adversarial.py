"""Virtual adversarial training: the perturbation's norm and direction, the loss, who learns."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from reft_lib import lora, sft, virtual_adversarial
from reft_lib.config import LoraSettings, SftConfig
from reft_lib.errors import NumericalError, UserError
from reft_lib.method_settings_adversarial import VatConfig

LORA = LoraSettings(rank=4, alpha=8)
VAT = VatConfig(epsilon=0.2, weight=0.7)
SFT = SftConfig(epochs=2, batch_size=4, lr=1e-2)


@pytest.fixture
def policy(new_model):
    found = lora.add_adapter(new_model(), LORA)
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(found):
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return found


@pytest.fixture
def batch(tokenizer, examples):
    return sft.collate(sft.encode(tokenizer, examples, "pcot"), tokenizer.eos_token_id)


def worst(policy, batch, config=VAT, seed=0):
    embeddings = virtual_adversarial.embed(policy, batch)
    clean = virtual_adversarial.logits_from(policy, embeddings, batch)
    generator = torch.Generator().manual_seed(seed)
    r = virtual_adversarial.perturbation(policy, batch, embeddings, clean, config, generator)
    return embeddings, clean, r


@torch.no_grad()
def change(policy, batch, embeddings, clean, r):
    """Return the KL by torch's own function."""
    far = virtual_adversarial.logits_from(policy, embeddings + r, batch)
    p, q = clean.log_softmax(-1), far.log_softmax(-1)
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean").item()


def test_logits_from_embeddings_are_those_of_the_tokens(policy, batch):
    embeddings = virtual_adversarial.embed(policy, batch)
    found = virtual_adversarial.logits_from(policy, embeddings, batch)
    usual = policy(input_ids=batch.tokens, attention_mask=batch.mask).logits[:, :-1]
    torch.testing.assert_close(found, usual[batch.labels[:, 1:] != sft.IGNORE])


def test_the_divergence_by_hand():
    clean = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    other = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log() + 3.0  # a constant changes nothing
    expected = 0.5 * (0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log())
    found = virtual_adversarial.divergence(clean, other)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_perturbation_has_the_stated_norm_and_leaves_padding(policy, batch):
    embeddings, _, r = worst(policy, batch)
    for row, own, mask in zip(r, embeddings, batch.mask, strict=True):
        assert row.norm().item() == pytest.approx(0.2 * own.norm().item(), rel=1e-4)
        assert (row[mask == 0] == 0).all() and (row[mask == 1] != 0).any()
    assert (batch.mask == 0).any() and not r.requires_grad
    assert all(p.grad is None for p in policy.parameters())


def test_predictions_change_more_along_it_than_along_any_random_direction(policy, batch):
    embeddings, clean, r = worst(policy, batch)
    found = change(policy, batch, embeddings, clean, r)
    generator, others = torch.Generator().manual_seed(7), []
    for _ in range(20):
        noise = torch.randn(r.shape, generator=generator) * batch.mask[:, :, None]
        away = virtual_adversarial.of_norm(noise, embeddings, VAT.epsilon)
        others.append(change(policy, batch, embeddings, clean, away))
    assert found > 2 * max(others) > 0
    more = worst(policy, batch, dataclasses.replace(VAT, iterations=3))[2]
    assert change(policy, batch, embeddings, clean, more) > 0.8 * found


def test_the_loss_is_sfts_and_the_weighted_divergence(policy, batch):
    loss, stats = virtual_adversarial.vat_loss(policy, batch, VAT, torch.Generator().manual_seed(0))
    assert stats["loss"] == pytest.approx(sft.loss(policy, batch).item(), rel=1e-5)
    assert stats["divergence"] == pytest.approx(
        change(policy, batch, *worst(policy, batch)), rel=1e-3
    )
    assert loss.item() == pytest.approx(stats["loss"] + 0.7 * stats["divergence"], rel=1e-5)


def test_gradients_reach_the_adapter_alone(policy, batch):
    virtual_adversarial.vat_loss(policy, batch, VAT)[0].backward()
    for name, p in policy.named_parameters():
        assert (p.grad is not None and p.grad.norm() > 0) == (".lora_" in name), name


def test_what_is_to_be_kept_gets_no_gradient():
    clean = torch.randn(3, 5, requires_grad=True)
    far = torch.randn(3, 5, requires_grad=True)
    virtual_adversarial.divergence(clean, far).backward()
    assert clean.grad is None and far.grad is not None


def steps(new_model, tokenizer, examples, vat, seed=0):
    policy = lora.add_adapter(new_model(), LORA)
    return list(
        virtual_adversarial.vat_steps(policy, tokenizer, examples, "pcot", SFT, vat, seed)
    ), policy


def test_without_weight_it_is_sft(new_model, tokenizer, examples):
    found, _ = steps(new_model, tokenizer, examples, VatConfig(weight=0.0))
    policy = lora.add_adapter(new_model(), LORA)
    usual = list(sft.sft_steps(policy, tokenizer, examples, "pcot", SFT))
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in usual])
    assert [m["divergence"] for m in found] == [0.0, 0.0]


def test_a_batch_is_learnt_and_stays_smooth(new_model, tokenizer, examples, batch):
    config, found = dataclasses.replace(SFT, epochs=25, lr=2e-2), {}
    for weight in (0.0, 1.0):
        policy = lora.add_adapter(new_model(), LORA)
        vat = VatConfig(weight=weight, epsilon=0.05)
        first, *_, last = virtual_adversarial.vat_steps(
            policy, tokenizer, examples, "pcot", config, vat
        )
        found[weight] = change(policy, batch, *worst(policy, batch, VatConfig(epsilon=0.05)))
        assert last["loss"] < 0.4 * first["loss"]
    assert found[1.0] < 0.7 * found[0.0]


def test_what_cannot_run_is_one_line(new_model, tokenizer, examples):
    with pytest.raises(UserError, match="epsilon is 0; it must be a number above 0"):
        VatConfig(epsilon=0)
    with pytest.raises(NumericalError, match="VAT step 0: loss is nan; lower sft.lr"):
        model = new_model()
        model.model.embed_tokens.weight.data.fill_(float("nan"))
        steps(lambda: model, tokenizer, examples, VAT)
