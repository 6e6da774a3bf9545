"""Sampling and scoring: the same distribution, whatever the padding, caching and row order."""

from __future__ import annotations

import pytest
import torch

from reft_lib import decode, lora, rollout
from reft_lib.config import LoraSettings
from reft_lib.errors import UserError

RAGGED = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def sampled(model, tokenizer, prompts=RAGGED, seed=0, new=20, **options):
    """Sample with a seed."""
    generator = torch.Generator().manual_seed(seed)
    return rollout.sample(model, tokenizer, prompts, new, generator=generator, **options)


def adapted(model):
    """Put an adapter on that does something."""
    policy = lora.add_adapter(model, LoraSettings(rank=4, alpha=8))
    for p in lora.trainable_parameters(policy):
        torch.nn.init.normal_(p, std=0.1)
    return policy


def test_logprobs_at_sampling_equal_the_training_forward(new_model, tokenizer):
    policy = adapted(new_model())
    roll = sampled(policy, tokenizer)
    logp, _ = rollout.score(policy, roll)
    assert roll.response_mask.sum() > 30
    torch.testing.assert_close(
        logp[roll.response_mask], roll.logprobs[roll.response_mask], rtol=1e-4, atol=1e-5
    )


def test_each_row_scores_as_it_would_alone(new_model, tokenizer):
    """An independent forward without padding, mask or position ids, row by row."""
    policy = adapted(new_model())
    roll = sampled(policy, tokenizer)
    logp, _ = rollout.score(policy, roll)
    for i, prompt in enumerate(RAGGED):
        response = roll.responses[i][roll.response_mask[i]]
        alone = torch.cat([torch.tensor(prompt), response])[None]
        with torch.no_grad():
            logits = policy(input_ids=alone).logits[0].double()
        expected = [
            torch.log_softmax(logits[len(prompt) - 1 + t], -1)[token].item()
            for t, token in enumerate(response)
        ]
        torch.testing.assert_close(
            logp[i][roll.response_mask[i]].double(),
            torch.tensor(expected).double(),
            rtol=1e-4,
            atol=1e-4,
        )


def test_minibatch_trims_only_padding(new_model, tokenizer):
    policy = adapted(new_model())
    roll = sampled(policy, tokenizer)
    whole, _ = rollout.score(policy, roll)
    rows = torch.tensor([2, 1])
    part = rollout.minibatch(roll, rows)
    assert part.sequences.shape[1] <= roll.sequences.shape[1] - 3  # row 0 had the longest prompt
    logp, _ = rollout.score(policy, part)
    r = part.response_mask.shape[1]
    mask = part.response_mask
    torch.testing.assert_close(logp[mask], whole[rows, :r][mask], rtol=1e-4, atol=1e-5)
    assert part.texts == [roll.texts[2], roll.texts[1]]


def test_positions_count_real_tokens():
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    assert decode.positions(mask).tolist() == [[0, 0, 0, 1, 2, 2], [0, 1, 2, 3, 4, 5]]


def test_response_ends_with_eos_or_is_cut(new_model, tokenizer):
    eos = tokenizer.eos_token_id
    roll = sampled(new_model(), tokenizer, RAGGED * 30, new=12)
    assert 0 < roll.ended.sum() < len(roll.ended) or roll.ended.sum() == 0
    for i in range(len(roll.texts)):
        tokens = roll.responses[i][roll.response_mask[i]].tolist()
        assert eos not in tokens[:-1]  # nothing is generated after the end
        assert (tokens[-1] == eos) == bool(roll.ended[i])
        assert roll.ended[i] or len(tokens) == 12
        body = tokens[:-1] if roll.ended[i] else tokens
        assert roll.texts[i] == tokenizer.decode(body)
        padding = roll.responses[i][~roll.response_mask[i]]
        assert (padding == eos).all() and (roll.logprobs[i][~roll.response_mask[i]] == 0).all()
    assert roll.response_mask.shape[1] == int(roll.lengths.max())  # stops when all have ended


def force_eos(model, tokenizer, bias: float):
    """Make the end of sequence likelier, so that rows end at different lengths."""
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] = bias
    return model


def test_dropping_ended_rows_changes_no_logprob(new_model, tokenizer):
    model = force_eos(new_model(), tokenizer, 3.0)
    roll = sampled(model, tokenizer, RAGGED * 20, new=40)
    lengths = roll.lengths
    assert lengths.min() < 5 and lengths.max() > 12  # ragged: rows were dropped on the way
    logp, _ = rollout.score(model, roll)
    mask = roll.response_mask
    torch.testing.assert_close(logp[mask], roll.logprobs[mask], rtol=1e-4, atol=1e-5)


def test_samples_follow_the_whole_distribution(new_model, tokenizer):
    """Frequencies of the first token against the model's own probabilities: no truncation."""
    model = new_model()
    n = 4000
    roll = sampled(model, tokenizer, [RAGGED[1]], new=1, samples_per_prompt=n)
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([RAGGED[1]])).logits[0, -1], -1)
    counts = torch.bincount(roll.responses[:, 0], minlength=len(p))
    spread = 5 * torch.sqrt(n * p * (1 - p)) + 5
    assert ((counts - n * p).abs() <= spread).all()
    rare = p < p.topk(50).values[-1]  # beyond any top-50, the libraries' default
    assert counts[rare].sum() > 0


def test_temperature_zero_takes_the_most_probable(new_model, tokenizer):
    model = new_model()
    roll = sampled(model, tokenizer, temperature=0.0, new=6)
    for i, prompt in enumerate(RAGGED):
        tokens = list(prompt)
        for t in range(int(roll.lengths[i])):
            with torch.no_grad():
                best = int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
            assert best == int(roll.responses[i, t])
            tokens.append(best)


def test_same_seed_same_samples_and_order_of_k(new_model, tokenizer):
    model = new_model()
    one = sampled(model, tokenizer, seed=4, samples_per_prompt=3)
    two = sampled(model, tokenizer, seed=4, samples_per_prompt=3)
    other = sampled(model, tokenizer, seed=5, samples_per_prompt=3)
    assert one.texts == two.texts and one.texts != other.texts
    prompts = [one.sequences[i, : one.prompt_width].tolist() for i in range(9)]
    assert prompts[0] == prompts[1] == prompts[2] != prompts[3]  # row i * k + j
    assert one.texts[0] != one.texts[1]


def test_a_row_depends_on_its_prompt_and_its_numbers_alone(new_model, tokenizer):
    """Not on its neighbours, on their number, or on who else has ended: half a batch is half."""
    model = force_eos(new_model(), tokenizer, 3.0)
    prompts = RAGGED * 4
    numbers = torch.rand(len(prompts), 20, generator=torch.Generator().manual_seed(1))
    whole = rollout.sample(model, tokenizer, prompts, 20, uniforms=numbers)
    for part in (slice(0, None, 2), slice(1, None, 2), slice(7, 8)):
        alone = rollout.sample(model, tokenizer, prompts[part], 20, uniforms=numbers[part])
        assert alone.texts == whole.texts[part]
        width = alone.response_mask.shape[1]
        torch.testing.assert_close(alone.logprobs, whole.logprobs[part, :width])


def test_a_generator_draws_the_numbers(new_model, tokenizer):
    model, new = new_model(), 12
    numbers = torch.rand(len(RAGGED), new, generator=torch.Generator().manual_seed(3))
    given = rollout.sample(model, tokenizer, RAGGED, new, uniforms=numbers)
    assert given.texts == sampled(model, tokenizer, seed=3, new=new).texts


def test_prompt_beyond_the_context_is_named(new_model, tokenizer):
    with pytest.raises(UserError, match="7 tokens.*max_new_tokens=30.*context of 32"):
        rollout.sample(new_model(context=32), tokenizer, RAGGED, 30)
