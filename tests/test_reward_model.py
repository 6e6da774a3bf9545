"""The reward model: its loss by hand, what it learns, what it leaves alone, and as PPO's reward."""

from __future__ import annotations

import copy
import dataclasses
import math
import random

import pytest
import torch

from reft_lib import lora, ppo, preferences, prompts, reward_model, samples, scorer
from reft_lib.config import LoraSettings, PpoConfig, SampleConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError, UserError
from reft_lib.method_settings_rlhf import RewardConfig
from reft_lib.preferences import Pair
from reft_lib.rewards import AnswerReward

LORA = LoraSettings(rank=4, alpha=8)
CONFIG = RewardConfig(epochs=2, batch_size=4, micro_batch=4, lr=3e-3)
END = "\nTherefore, the answer is: "


def toy(n, each=2, first=0):
    """Prefer responses whose reasoning ends with "buying" to those that end with "apples"."""
    pairs = []
    for i in range(first, first + n):
        e = Example(f"toy-{i}", f"How many are {i} and 7?", str(i + 7))
        for j in range(each):
            good, bad = (f"{i} + 7 = {i + 7} after {j} {w}." for w in ("buying", "apples"))
            pairs.append(Pair(e, f"{good}{END}{i + 7}", f"{bad}{END}{i + 7}"))
    return pairs


def new(policy, tokenizer, config=CONFIG, seed=0):
    """Put an untrained reward model on whose adapter already does something."""
    reward, loop = reward_model.begin(policy, tokenizer, "ncot", config, LORA, seed)
    generator = torch.Generator().manual_seed(5)
    for p in lora.adapter_parameters(reward.model, reward_model.ADAPTER):
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    reward.head.linear.weight.data *= 30
    return reward, loop


def score_alone(reward, example, text):
    """Read one response by itself, without padding; the head in float64."""
    prompt = reward.tokenizer(prompts.prompt(example, reward.fmt))["input_ids"]
    ids = reward.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*prompt, *ids, reward.tokenizer.eos_token_id]
    with lora.active(reward.model, reward_model.ADAPTER), torch.no_grad():
        out = reward.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    w, b = (p.detach().double() for p in reward.head.linear.parameters())
    return (out.hidden_states[-1][0, -1].double() @ w[0] + b).item()


def test_the_loss_of_two_numbers_by_hand():
    chosen, rejected = torch.tensor([2.0, 0.5, 1.0, 40.0]), torch.tensor([0.0, 1.5, 1.0, -60.0])
    loss, stats = reward_model.preference_loss(chosen, rejected)
    terms = [math.log(1 + math.exp(-d)) for d in (2.0, -1.0, 0.0, 100.0)]
    assert loss.item() == pytest.approx(sum(terms) / 4)
    assert stats == {"accuracy": 2.5 / 4, "margin": pytest.approx(101 / 4)}
    far = reward_model.preference_loss(torch.tensor([-500.0]), torch.tensor([500.0]))[0]
    assert far.item() == 1000.0  # linear, not infinite


def test_the_gradient_is_how_wrong_the_choice_was_foretold():
    chosen = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    reward_model.preference_loss(chosen, rejected)[0].backward()
    expected = [-(1 - 1 / (1 + math.exp(-d))) / 2 for d in (2.0, -1.0)]
    assert chosen.grad.tolist() == pytest.approx(expected)
    assert rejected.grad.tolist() == pytest.approx([-x for x in expected])


@pytest.mark.parametrize("micro", [1, 2, 64])
def test_a_score_is_read_after_the_last_token(new_model, tokenizer, examples, micro):
    reward, _ = new(new_model(), tokenizer, dataclasses.replace(CONFIG, micro_batch=micro))
    asked = [(examples[0], "12 + 5 = 17"), (examples[1], ""), (examples[3], "20 + 7 after buying.")]
    found = reward_model.score(reward, asked)
    assert found == pytest.approx([score_alone(reward, *x) for x in asked], abs=1e-4)
    assert len({round(x, 3) for x in found}) == 3


def test_the_loss_of_a_batch_by_hand_in_any_micro_batches(new_model, tokenizer):
    pairs = [*toy(2, 1), Pair(toy(1)[0].example, "12", "12 + 5 = 17 after buying."), *toy(2, 1, 5)]
    grads = []
    for micro in (1, 2, 8):
        config = RewardConfig(epochs=1, batch_size=8, micro_batch=micro, lr=0.0, grad_clip=1e9)
        reward, loop = new(new_model(), tokenizer, config)
        (loss,) = reward_model.train_steps(reward, loop, pairs)
        expected = 0.0
        for p in pairs:
            d = score_alone(reward, p.example, p.chosen) - score_alone(reward, *p[::2])
            expected += math.log(1 + math.exp(-d)) / len(pairs)
        assert loss == pytest.approx(expected, rel=1e-4)
        own = lora.adapter_parameters(reward.model, reward_model.ADAPTER)
        grads.append([p.grad.clone() for p in [*own, reward.head.linear.weight]])
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_gradients_reach_only_adapter_and_head(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    reward, loop = new(policy, tokenizer)
    next(reward_model.train_steps(reward, loop, toy(4, 1)))
    moved = {n for n, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved and all(f".{reward_model.ADAPTER}." in name for name in moved)
    assert len(moved) == len(lora.adapter_parameters(policy, reward_model.ADAPTER))
    assert reward.head.linear.weight.grad.abs().max() > 0
    # a constant does not change any difference
    assert reward.head.linear.bias.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_one_batch_is_learnt_by_heart(new_model, tokenizer):
    """Choices at random, which no rule can tell."""
    coin = random.Random(0)
    pairs = [p if coin.random() < 0.5 else Pair(p.example, p.rejected, p.chosen) for p in toy(6, 1)]
    config = RewardConfig(epochs=40, batch_size=6, lr=1e-2)
    reward, loop = reward_model.begin(new_model(), tokenizer, "ncot", config, LORA)
    losses = list(reward_model.train_steps(reward, loop, pairs))
    assert losses[0] == pytest.approx(math.log(2), abs=0.1) and losses[-1] < 0.02
    assert reward_model.validate(reward, pairs)["held_accuracy"] == 1.0


ONCE = []


@pytest.fixture
def learnt(new_model, tokenizer):
    """Train a reward model on the toy rule, beside a policy's own adapter that is not neutral."""
    if not ONCE:
        policy = lora.add_adapter(new_model(), LORA)
        for p in lora.trainable_parameters(policy):
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before = policy(input_ids=torch.tensor([[5, 6, 7]])).logits
        config = RewardConfig(epochs=6, batch_size=8, lr=1e-2, held_out=0.2)
        reward = reward_model.train(policy, tokenizer, toy(15), "ncot", config, LORA)
        ONCE.append((reward, before))
    return ONCE[0]


def test_a_rule_is_learnt_and_holds_for_questions_not_seen(learnt):
    reward, _ = learnt
    kept = reward.history[reward.epoch - 1]
    assert kept["held_accuracy"] == 1.0 and kept["held_loss"] < 0.3
    assert reward.history[-1]["loss"] < reward.history[0]["loss"]
    fresh = toy(6, first=50)
    assert (reward_model.margins(reward, fresh) > 0).all()
    backwards = [Pair(p.example, p.rejected, p.chosen) for p in fresh]
    assert reward_model.validate(reward, backwards)["held_accuracy"] == 0.0


def test_the_policy_stays_as_it_is_and_the_reward_model_is_frozen(learnt):
    reward, before = learnt
    policy = reward.model
    assert policy.active_adapter == "default"
    with torch.no_grad():
        assert torch.equal(policy(input_ids=torch.tensor([[5, 6, 7]])).logits, before)
    own = lora.adapter_parameters(policy, "default")
    assert all(p.requires_grad and p.grad is None for p in own)
    assert lora.trainable_parameters(policy) == own


def test_scores_of_the_training_responses_are_centred(learnt):
    reward, _ = learnt
    training, _ = samples.split(toy(15), 0.2, seed=0)
    scores = [
        x
        for p in training
        for x in reward_model.score(reward, [(p.example, p.chosen), (p.example, p.rejected)])
    ]
    mean = sum(scores) / len(scores)
    assert mean == pytest.approx(0.0, abs=1e-4)
    spread = math.sqrt(sum((x - mean) ** 2 for x in scores) / len(scores))
    assert reward.spread == pytest.approx(spread, rel=1e-4) and spread > 0.5


def test_a_response_in_several_pairs_counts_once_in_the_mean(new_model, tokenizer, examples):
    reward, _ = new(new_model(), tokenizer)
    e = examples[0]
    reward_model.centre(reward, [Pair(e, "12", "5"), Pair(e, "12", "17"), Pair(e, "5", "12")])
    assert sum(reward_model.score(reward, [(e, t) for t in ("12", "5", "17")])) == pytest.approx(
        0.0, abs=1e-4
    )


def test_what_is_reported_of_held_out_pairs_is_computed_by_hand(new_model, tokenizer):
    reward, _ = new(new_model(), tokenizer)
    held = toy(5)
    p = []
    for pair in held:
        d = score_alone(reward, pair.example, pair.chosen) - score_alone(reward, *pair[::2])
        p.append(1 / (1 + math.exp(-d)))
    found = reward_model.validate(reward, held)
    assert found["held_loss"] == pytest.approx(-sum(map(math.log, p)) / len(p), rel=1e-4)
    assert found["held_accuracy"] == sum(x > 0.5 for x in p) / len(p)
    assert found["held_margin"] == pytest.approx(
        sum(math.log(x / (1 - x)) for x in p) / len(p), abs=1e-4
    )
    assert found["held_ece"] == pytest.approx(preferences.calibration(p).error, abs=1e-4)


def test_the_best_epoch_is_kept_and_a_stopped_training_goes_on_the_same(new_model, tokenizer):
    """Choices at random: learnt by heart, held-out questions get worse."""
    coin = random.Random(1)
    pairs = [
        p if coin.random() < 0.5 else Pair(p.example, p.rejected, p.chosen) for p in toy(12, 1)
    ]
    config = RewardConfig(epochs=5, batch_size=4, lr=1e-2, held_out=0.3)
    states = []

    def after(state):
        tensors, notes = state()
        states.append(({k: x.clone() for k, x in tensors.items()}, copy.deepcopy(notes)))

    def run(**options):
        return reward_model.train(
            new_model(), tokenizer, pairs, "ncot", config, LORA, seed=2, **options
        )

    def numbers(reward):
        asked = [(p.example, p.chosen) for p in pairs]
        history = [{k: v for k, v in h.items() if k != "step_seconds"} for h in reward.history]
        return history, reward.epoch, reward.spread, reward_model.score(reward, asked)

    whole = run(after=after)
    held_losses = [m["held_loss"] for m in whole.history]
    assert [m["epoch"] for m in whole.history] == [1, 2, 3, 4, 5]
    assert whole.epoch == 1 + held_losses.index(min(held_losses)) < 5
    _, held = samples.split(pairs, 0.3, seed=2)
    assert reward_model.validate(whole, held)["held_loss"] == pytest.approx(min(held_losses))
    assert numbers(run(state=states[6])) == numbers(whole)


def test_a_graded_response_keeps_its_true_verdict(learnt, examples):
    reward, _ = learnt
    texts = [f"12 + 5 = 17 after 1 buying.{END}17", f"12 + 5 = 18 after 1 apples.{END}18", "?"]
    graded = reward(texts, examples[:1] * 3)
    truth = AnswerReward("ncot")(texts, examples[:1] * 3)
    assert [(g.answer, g.correct) for g in graded] == [(g.answer, g.correct) for g in truth]
    scores = reward_model.score(reward, [(examples[0], t) for t in texts])
    assert [g.reward for g in graded] == scores and scores[0] > scores[1]


def test_ppo_takes_it_as_its_reward_and_does_not_train_it(learnt, tokenizer, examples):
    reward, _ = learnt
    policy, rater = reward.model, preferences.GoldReward("ncot")
    asked = [(e, "12 + 5 = 17 after buying.") for e in examples]
    before = reward_model.score(reward, asked)
    own = [p.clone() for p in lora.adapter_parameters(policy, "default")]
    watched = preferences.Watched(reward, rater)
    config = PpoConfig(steps=2, batch_size=4, micro_batch=4, lr=1e-2)
    for metrics in ppo.ppo(
        policy, tokenizer, examples, "ncot", watched, config, SampleConfig(max_new_tokens=8)
    ):
        assert metrics["reward"] == pytest.approx(watched.seen["proxy"])
        assert 0 <= metrics["accuracy"] <= 1 and math.isfinite(metrics["policy_loss"])
        assert watched.seen["gold"] < 0.1 + 3 * metrics["accuracy"]
    now = lora.adapter_parameters(policy, "default")
    assert not all(torch.equal(a, b) for a, b in zip(own, now, strict=True))
    assert reward_model.score(reward, asked) == before
    for parameter, value in zip(now, own, strict=True):
        parameter.data.copy_(value)


def test_it_begins_as_a_policy_that_could_not_be_merged(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    for p in lora.adapter_parameters(policy):
        p.data += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        warm = policy(input_ids=tokens).logits
        policy = lora.keep_reference(policy)
        reward, _ = reward_model.begin(policy, tokenizer, "ncot", CONFIG, LORA)
        with lora.active(reward.model, reward_model.ADAPTER):
            assert torch.equal(reward.model(input_ids=tokens).logits, warm)


def test_what_cannot_be_trained_or_scored_is_one_line(new_model, tokenizer, examples):
    with pytest.raises(UserError, match="2 pairs leave none to train on"):
        reward_model.train(new_model(), tokenizer, toy(1), "ncot", CONFIG, LORA)
    reward, loop = new(new_model(), tokenizer)
    reward.head.linear.bias.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="reward model: loss is nan; lower its lr"):
        next(reward_model.train_steps(reward, loop, toy(2)))
    with pytest.raises(NumericalError, match="reward: a score is not finite"):
        reward(["12"], examples[:1])
    with pytest.raises(ValueError):
        reward(["12", "13"], examples[:1])


def test_rows_that_are_read_are_as_wide_as_told(tokenizer, new_model, examples):
    rows = scorer.encode(new_model(), tokenizer, "ncot", [(examples[0], "12 + 5")])
    part, *rest = reward_model.micro_batches([(rows[0], rows[0])], 4, 0, "cpu")
    assert part.batch.mask.sum(dim=1).tolist() == [scorer.width(rows[0])]
    assert part.share == 1.0 and not rest
