"""The lens's record: it is PPO's own training, and its numbers are those of the equations."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch

from reft_lib import config, lens_log, lens_record, lora, ppo, runlog
from reft_lib.config import LoraSettings, PpoConfig, SampleConfig, SftConfig
from reft_lib.errors import UserError
from reft_lib.lens_log import Sighting, WholeBatch
from reft_lib.rewards import Graded

LORA = LoraSettings(rank=4, alpha=8)
SETTINGS = PpoConfig(steps=3, batch_size=4, ppo_epochs=2, minibatches=2, micro_batch=1, lr=5e-3)
SAMPLING = SampleConfig(max_new_tokens=6)
ONE = [0.0]
BARE = Sighting(1, "q", "", "", None, 0.0, ["x"], ONE, ONE, ONE, ONE, ONE, ONE, ONE)


def grade(texts, examples):
    """Reward responses by their length, so that rewards differ."""
    return [Graded(len(t) % 3 / 2, t or None, len(t) % 3 == 2) for t in texts]


def trained(new_model, tokenizer, examples, loop):
    """Train a small policy with one of the two loops; return what it yields and the weights."""
    policy = lora.add_adapter(new_model(), LORA)
    rows = (examples * 2)[:6]
    found = list(loop(policy, tokenizer, rows, "ncot", grade, SETTINGS, SAMPLING, seed=3))
    return found, [p.detach().clone() for p in lora.trainable_parameters(policy)]


def test_watching_trains_as_ppo_does_to_the_bit(new_model, tokenizer, examples):
    watched, weights = trained(new_model, tokenizer, examples, lens_record.watch)
    yielded, others = trained(new_model, tokenizer, examples, ppo.ppo)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    for seen, metrics in zip(watched, yielded, strict=True):
        del metrics["step_seconds"]
        assert metrics == pytest.approx({"step": seen.step, **seen.metrics}, abs=0, nan_ok=True)


def test_ratios_are_those_of_the_turn_and_of_the_end(new_model, tokenizer, examples):
    (first, *_), _ = trained(new_model, tokenizer, examples, lens_record.watch)
    once = dataclasses.replace(SETTINGS, ppo_epochs=1, steps=1)
    policy = lora.add_adapter(new_model(), LORA)
    rows = (examples * 2)[:6]
    (seen,) = lens_record.watch(policy, tokenizer, rows, "ncot", grade, once, SAMPLING, seed=3)
    mask = seen.experience.rollout.response_mask
    early, late = ppo.split_rows(seen.experience.rollout, 2)
    old = seen.experience.old_logp
    assert torch.equal(seen.turn[early], old[early])  # the first minibatch: the ratio is 1
    assert (seen.turn[late] - old[late]).abs().max() > 1e-4
    assert (seen.after - old)[mask].abs().max() > 1e-4 and not (seen.after * ~mask).any()
    assert (first.turn[early] - old[early]).abs().max() > 1e-4  # the second pass has begun


@pytest.fixture
def recorded(small_world, tmp_path):
    """Make a record with a tiny model."""
    settings = dataclasses.replace(
        config.preset("nano"), n_train=5, n_validation=2, n_test=2, n_hard=2, warmup_epochs=1,
        fmt="pcot", lora=LORA, sft=SftConfig(epochs=1, batch_size=5),
        ppo=dataclasses.replace(SETTINGS, batch_size=5, steps=4), sample=SAMPLING,
    )  # fmt: skip
    out = tmp_path / "lens" / "tiny"
    return out, settings, lens_record.record(out, seed=1, config=settings)


def test_a_record_holds_every_meeting_of_its_questions(recorded):
    out, settings, kept = recorded
    read = lens_log.read(out)
    assert len(read.sightings) == lens_record.KEPT * 4 and not read.damaged
    assert [(s.id, s.step) for s in read.sightings] == [(s.id, s.step) for s in kept]
    assert read.sightings == kept
    card = read.card
    assert card["seed"] == 1 and card["ended"] and card["versions"]["torch"] and card["data"]
    assert card["config"]["ppo"]["beta"] == settings.beta_programs
    metrics = runlog.read_metrics(out)
    assert list(metrics[metrics["split"] == "train"]["step"]) == [1, 2, 3, 4]
    assert read.batch is not None and read.batch.step == kept[3].step
    assert read.batch.tokens == kept[3].tokens
    adds_up(settings, kept)


def adds_up(settings, kept):
    """Check every number of every sighting by the equations."""
    beta, gamma, lam = settings.beta_programs, settings.ppo.gamma, settings.ppo.lam
    for s in kept:
        assert s.terminal == [0.0] * (len(s.tokens) - 1) + [s.score]
        running = 0.0
        for t in reversed(range(len(s.tokens))):
            assert s.kl_rewards[t] == pytest.approx(-beta * (s.logp[t] - s.ref_logp[t]), abs=2e-5)
            following = s.values[t + 1] if t + 1 < len(s.tokens) else 0.0
            delta = s.kl_rewards[t] + s.terminal[t] + gamma * following - s.values[t]
            running = delta + gamma * lam * running
            assert s.advantages[t] == pytest.approx(running, abs=2e-4)
        assert len(s.ratio_turn) == len(s.ratio_after) == len(s.tokens)
        assert all(math.isfinite(x) and x > 0 for x in s.ratio_after)
    first = [s for s in kept if s.step == 1]
    assert all(x == 0 for s in first for x in s.kl_rewards)  # the fresh adapter changes nothing


def test_the_questions_kept_are_those_that_show_most():
    one = dataclasses.replace(BARE, tokens=["x"] * 10)

    def met(*scores):
        return [dataclasses.replace(one, score=x) for x in scores]

    short = [dataclasses.replace(s, tokens=["x"]) for s in met(0.0, 0.1, 1.0)]
    found = {
        0: met(1.0, 1.0, 1.0), 1: short, 2: met(1.0, 0.1, 0.0), 3: met(0.0, 0.1, 1.0),
        4: met(0.0, 1.0), 5: met(0.0, 0.1, 1.0),
    }  # fmt: skip
    assert lens_record.telling(found, 4) == [3, 5, 2, 0]
    with pytest.raises(UserError, match="no question was met twice"):
        lens_record.telling({0: met(1.0)})


def test_what_is_missing_or_damaged_is_named(tmp_path):
    out = tmp_path / "lens" / "tiny"
    shutil.copytree(lens_log.RECORD, out)
    kept = lens_log.read(out).sightings
    with pytest.raises(UserError, match=r"runs/none has not been recorded; .*record-lens"):
        lens_log.read(tmp_path / "runs" / "none")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    shorter = json.loads(lines[36]) | {"values": [1.0]}
    assert shorter["split"] == "lens"
    lines[35], lines[36] = lines[35][:50], json.dumps(shorter)
    (out / "metrics.jsonl").write_text("\n".join(lines))
    read = lens_log.read(out)
    file = "lens/tiny/metrics.jsonl"
    assert read.damaged == [f"{file}:36", f"{file}, a line of step {kept[1].step}"]
    assert read.sightings == kept[2:]
    (out / "metrics.jsonl").write_text(lines[0])
    with pytest.raises(UserError, match="lens/tiny: no response is recorded here"):
        lens_log.read(out)


def test_what_is_no_batch_is_refused():
    rows = [[-0.1, -0.2], [-0.3]]
    made = WholeBatch(rows, rows, rows, [1.0, 0.0], 0, ["a", "b"])
    logp, _, _, mask, scores = made.tensors()
    assert mask.tolist() == [[True, True], [True, False]] and scores.tolist() == [1.0, 0.0]
    assert logp[1].tolist() == pytest.approx([-0.3, 0.0])
    for change, said in (
        ({"scores": []}, "empty rollout"),
        ({"tokens": []}, "empty rollout"),
        ({"values": [[0.0], [0.0]]}, "as many, and as long"),
        ({"row": 2}, "as many, and as long"),
        ({"row": 1}, "row 1 has 1 numbers"),
    ):
        with pytest.raises(UserError, match=said):
            dataclasses.replace(made, **change)
    with pytest.raises(UserError, match="empty rollout"):
        lens_log.check([])
    lens_log.check([BARE])
    with pytest.raises(UserError, match="2 values for 1 tokens"):
        lens_log.check([dataclasses.replace(BARE, values=[0.0, 0.0])])
    with pytest.raises(UserError, match="has no token"):
        lens_log.check([dataclasses.replace(BARE, tokens=[])])
