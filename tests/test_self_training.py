"""Self-training: what is kept, and a loss of one half and one half."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from reft_lib import answers, evaluate, lora, ppo, prompts, rollout, self_training, sft
from reft_lib.config import LoraSettings, PpoConfig, SampleConfig, SelfTrainConfig, SftConfig
from reft_lib.errors import NumericalError, UserError
from reft_lib.loop import Loop
from reft_lib.rewards import AnswerReward, Graded

LORA = LoraSettings(rank=8, alpha=16)
CONFIG = SelfTrainConfig(steps=2, batch_size=8, micro_batch=3, lr=1e-3)
SAMPLING = SampleConfig(max_new_tokens=8)
END = "\nTherefore, the answer is: "


def sampled(texts, examples, fmt, ended=None):
    """Judge made-up responses, all of which ended unless it is said otherwise."""
    ended = ended or [[True] * len(group) for group in texts]
    return dataclasses.replace(evaluate.judge(texts, examples, fmt), ended=ended)


def with_e(texts, examples):
    """Call responses right that have an "e" in them."""
    return [Graded(float("e" in t), t or None, "e" in t) for t in texts]


def test_right_paths_are_kept_once_and_wrong_ones_never(examples):
    """The question's annotation is "12 + 5 = 17 after buying."."""
    texts = [
        f"12 + 5 = 17 after buying.{END}17",  # the annotation itself
        f"So 12 + 5 = 17.{END}17",  # the annotation in other words
        f"5 + 12 = 17 in all.{END}17",  # another path
        f"First 5 + 12 = 17.{END}17",  # the same again
        f"5 + 12 = 17.{END}16",  # a right path to a wrong answer
        f"12 + 6 = 18.{END}18",
        f"10 + 7 = 17.{END}17.00",  # an answer in other digits
        "5 + 5 = 10 and no answer",
    ]
    result = sampled([texts], examples[:1], "ncot")
    kept = self_training.keep(result, examples[:1], "ncot", 10)
    assert kept[0] is examples[0]
    assert [e.ncot for e in kept[1:]] == ["5 + 12 = 17 in all.", "10 + 7 = 17."]
    assert [e.id for e in kept] == ["made-0", "made-0+1", "made-0+2"]
    assert {(e.question, e.answer) for e in kept} == {(examples[0].question, "17")}
    assert prompts.target(kept[1], "ncot") == texts[2]  # the text that was sampled
    assert prompts.target(kept[2], "ncot") == f"10 + 7 = 17.{END}17"  # with the gold answer
    assert kept[1].pcot is None and examples[0].pcot is not None  # that tells another path


def test_programs_are_run_and_compared_without_spaces(examples):
    annotated = examples[0].pcot
    texts = [
        annotated,
        annotated.replace(" + ", "+"),
        "\n    return 5 + 12\n",
        "\n    return 5+12",
        "\n    return 18",
        "\n    return 1 / 0",
    ]
    kept = self_training.keep(sampled([texts], examples[:1], "pcot"), examples[:1], "pcot", 10)
    assert [prompts.target(e, "pcot") for e in kept] == [annotated, "\n    return 5 + 12"]


@pytest.mark.parametrize(
    "text, ended",
    [
        (f"5 + 12 = 17.{END}17", False),  # cut off: no example of where to stop
        (f"5 + 12 = 16.{END}16\n5 + 12 = 17.{END}17", True),  # concludes twice
        (f"{END}17", True),  # no reasoning
    ],
)
def test_what_should_not_be_imitated_is_not_kept(examples, text, ended):
    result = sampled([[text]], examples[:1], "ncot", [[ended]])
    assert result.right == [[True]]
    assert self_training.keep(result, examples[:1], "ncot", 10) == examples[:1]


def test_at_most_so_many_and_for_each_question_its_own(examples):
    texts = [[f"{i} + {17 - i} = 17.{END}17" for i in range(12)], [f"4 + 3 = 7.{END}7"], [], []]
    kept = self_training.keep(sampled(texts, examples, "ncot"), examples, "ncot", 10)
    assert [e.id.split("+")[0] for e in kept] == ["made-0"] * 11 + ["made-1"] * 2 + [
        "made-2",
        "made-3",
    ]
    assert kept[10].ncot == "9 + 8 = 17."  # the first ten that were sampled
    assert len({e.id for e in kept}) == len(kept)
    short = self_training.keep(sampled(texts, examples, "ncot"), examples, "ncot", 1)
    assert [e.id for e in short] == ["made-0", "made-0+1", "made-1", "made-1+1", "made-2", "made-3"]


def test_a_question_without_annotation_is_named(examples):
    bare = dataclasses.replace(examples[0], ncot=None)
    with pytest.raises(UserError, match="made-0"):
        self_training.keep(sampled([[]], [bare], "ncot"), [bare], "ncot", 10)


@pytest.fixture
def trained(new_model, tokenizer, examples):
    """A policy that has learnt other paths than the annotated ones, not quite by heart."""
    plain = new_model()
    plain.model.norm.weight.data *= 3
    planted = []
    for e in examples:
        a, b = e.ncot.split(" = ")[0].split(" + ")
        planted.append(dataclasses.replace(e, ncot=f"{b} + {a} = {e.answer} after buying."))
    policy = lora.add_adapter(plain, LORA)
    for _ in sft.sft(
        policy, tokenizer, planted, "ncot", SftConfig(epochs=60, batch_size=4, lr=1e-2)
    ):
        pass
    return policy


def test_a_planted_path_is_found_and_learnt(trained, new_model, tokenizer, examples):
    config = SelfTrainConfig(samples=12, keep=3)
    sampling = SampleConfig(max_new_tokens=40, batch_size=16)
    kept = self_training.collect(trained, tokenizer, examples, "ncot", config, sampling, seed=1)
    again = self_training.collect(trained, tokenizer, examples, "ncot", config, sampling, seed=1)
    assert kept == again
    paths = {evaluate.reasoning(e.ncot, "ncot") for e in kept}
    assert {"5+12=17", "4+3=7", "7+20=27"} <= paths  # planted
    assert {"12+5=17", "3+4=7", "1+1=2", "20+7=27"} <= paths  # annotated
    for e in kept:  # an independent judgement
        assert answers.extract(prompts.target(e, "ncot"), "ncot") == e.answer
        assert len([x for x in kept if x.id.split("+")[0] == e.id]) <= 4
    student = lora.add_adapter(new_model(), LORA)
    config = SftConfig(epochs=2, batch_size=4, lr=1e-2)
    first, second = sft.sft(student, tokenizer, kept, "ncot", config)
    assert second["loss"] < first["loss"]


def halves_of(policy, tokenizer, examples, right):
    """Annotations of all, and the responses that are called right."""
    annotated = sft.encode(tokenizer, examples, "ncot")
    ids = rollout.encode(tokenizer, examples, "ncot")
    generator = torch.Generator().manual_seed(0)
    roll = rollout.sample(policy, tokenizer, ids, 8, generator=generator)
    graded = [Graded(float(r), "1", r) for r in right]
    own = self_training.right_pairs(roll, ids, graded)
    assert list(own) == [i for i, r in enumerate(right) if r]
    for i, (prompt, target) in own.items():
        body = target[:-1] if roll.ended[i] else target
        assert prompt == ids[i] and tokenizer.decode(body) == roll.texts[i]
    return list(own.values()), annotated


def cross_entropy(policy, pairs):
    """Mean over all tokens of single rows, without padding or positions (differentiable)."""
    total, n = 0.0, 0
    for prompt, target in pairs:
        logits = policy(input_ids=torch.tensor([prompt + target])).logits[0].double()
        logp = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
        total = total - logp[torch.arange(len(target)), torch.tensor(target)].sum()
        n += len(target)
    return total / n


def sgd(policy):
    """A loop whose optimiser moves nothing."""
    optimizer = torch.optim.SGD(lora.trainable_parameters(policy), lr=0.0)
    return Loop(optimizer, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("right", [[True, False, True, True], [False] * 4])
@pytest.mark.parametrize("micro", [8, 3, 1])
def test_the_loss_is_half_and_half(new_model, tokenizer, examples, right, micro):
    policy = lora.add_adapter(new_model(), LORA)
    for p in lora.trainable_parameters(policy):
        torch.nn.init.normal_(p, std=0.1)
    own, annotated = halves_of(policy, tokenizer, examples, right)
    config = dataclasses.replace(CONFIG, micro_batch=micro, grad_clip=1e9)
    found = self_training.update(policy, sgd(policy), (own, annotated), 0, config)
    got = [p.grad.clone() for p in lora.trainable_parameters(policy)]

    policy.zero_grad()
    expected = 0.5 * cross_entropy(policy, annotated)
    if any(right):
        expected = expected + 0.5 * cross_entropy(policy, own)
        assert found["sampled_loss"] == pytest.approx(cross_entropy(policy, own).item(), rel=1e-4)
    else:
        assert math.isnan(found["sampled_loss"])
    expected.backward()
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-4)
    for a, p in zip(got, lora.trainable_parameters(policy), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-5)
    norm = torch.sqrt(sum((p.grad**2).sum() for p in lora.trainable_parameters(policy)))
    assert found["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)


def test_it_meets_the_questions_and_responses_that_ppo_meets(new_model, tokenizer, examples):
    """With a learning rate of 0 both sample from the same policy all along."""
    shared = {"steps": 3, "batch_size": 6, "minibatches": 2, "lr": 0.0}
    names = ("step", "reward", "accuracy", "extracted", "length", "ended")
    seen: list[list[tuple[str, str]]] = [[], []]
    metrics: list[list[dict[str, float]]] = []
    for texts_seen, loop in zip(seen, (ppo.ppo, self_training.online), strict=True):

        def reward(texts, batch, texts_seen=texts_seen):
            texts_seen += [(e.id, t) for e, t in zip(batch, texts, strict=True)]
            return with_e(texts, batch)

        config = (PpoConfig if loop is ppo.ppo else SelfTrainConfig)(**shared)
        policy = lora.add_adapter(new_model(), LORA)
        steps = loop(policy, tokenizer, examples, "ncot", reward, config, SAMPLING, seed=3)
        metrics.append([{n: m[n] for n in (*names, "entropy")} for m in steps])
    assert seen[0] == seen[1] and len(seen[0]) == 18
    for a, b in zip(*metrics, strict=True):
        assert {n: a[n] for n in names} == {n: b[n] for n in names}
        assert a["entropy"] == pytest.approx(b["entropy"], rel=1e-4)


def test_it_learns_what_is_right(new_model, tokenizer, examples):
    """Beside a control that is told that nothing is right, and learns the annotations alone."""
    share: dict[bool, list[float]] = {True: [], False: []}
    for told in share:

        def reward(texts, batch, told=told):
            share[told].append(sum("o" in t for t in texts) / len(texts))
            return [Graded(0.0, None, told and "o" in t) for t in texts]

        policy = lora.add_adapter(new_model(), LORA)
        config = SelfTrainConfig(steps=16, batch_size=32, lr=1e-2)
        two_tokens = SampleConfig(max_new_tokens=2)
        first, *_, last = self_training.online(
            policy, tokenizer, examples, "ncot", reward, config, two_tokens
        )
        assert last["annotated_loss"] < 0.8 * first["annotated_loss"]
    assert share[True][0] == share[False][0] < 0.3
    assert sum(share[True][-4:]) / 4 > 0.4 and sum(share[False][-4:]) / 4 < 0.25


def test_same_seed_same_run_and_a_loop_goes_on_where_it_stopped(new_model, tokenizer, examples):
    def run(seed, *stops):
        policy = lora.add_adapter(new_model(), LORA)
        loop = self_training.begin(policy, CONFIG, seed)
        found = []
        for steps in stops:
            config = dataclasses.replace(CONFIG, steps=steps)
            for m in self_training.online(
                policy, tokenizer, examples, "ncot", with_e, config, SAMPLING, seed, loop=loop
            ):
                m.pop("step_seconds")
                found.append(m)
        return repr(found)

    assert run(1, 3) == run(1, 1, 3) != run(2, 3)


def test_only_right_and_annotated_responses_are_learnt(new_model, tokenizer, examples):
    """With a reward that calls everything wrong, it is SFT at half weight."""
    policy = lora.add_adapter(new_model(), LORA)
    config = SelfTrainConfig(steps=1, batch_size=4, update_epochs=1, lr=1e-3)
    first = next(
        self_training.online(
            policy, tokenizer, examples, "ncot", AnswerReward("ncot"), config, SAMPLING
        )
    )
    assert first["accuracy"] == 0.0 and math.isnan(first["sampled_loss"])
    assert first["loss"] == pytest.approx(first["annotated_loss"] / 2)
    pairs = sft.encode(tokenizer, examples, "ncot")
    expected = sft.loss(new_model(), sft.collate(pairs, 0)).item()
    assert first["annotated_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_policy(new_model, tokenizer, examples):
    policy = lora.add_adapter(new_model(), LORA)
    own, annotated = halves_of(policy, tokenizer, examples, [True] * 4)
    policy.base_model.model.model.norm.weight.data.fill_(float("nan"))
    before = [p.clone() for p in lora.trainable_parameters(policy)]
    loop = self_training.begin(policy, CONFIG)
    loop.step = 5
    with pytest.raises(NumericalError, match=r"step 5: loss is nan; lower self_train\.lr"):
        self_training.update(policy, loop, (own, annotated), 0, CONFIG)
    for a, b in zip(before, lora.trainable_parameters(policy), strict=True):
        assert torch.equal(a, b)
