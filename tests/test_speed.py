"""The benchmark: equal work for all engines, counted operations, readable records."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reft_lib import (
    cli,
    data,
    fused,
    lora,
    models,
    rollout,
    speed,
    speed_case,
    speed_records,
    speed_work,
    switch,
)
from reft_lib.config import LoraSettings
from reft_lib.errors import UserError
from reft_lib.speed_case import Case, update_work

SMALL = Case(rows=4, prompt=12, mean=5, most=10, group=2)


def test_the_end_is_as_probable_everywhere():
    """Wherever a text of the data set is cut off."""
    model, tokenizer = models.load("nano", "float32")
    end = tokenizer.eos_token_id
    ids = rollout.pad_left(tokenizer([e.question for e in data.load("embedded", "test")[:20]])[
        "input_ids"], end)[0]  # fmt: skip
    before = model(ids).logits.softmax(-1)[..., end]
    assert before.max() > 100 * before.min()
    speed_case.even_ending(model, end, mean=8)
    after = model(ids).logits.softmax(-1)[..., end]
    torch.testing.assert_close(after, torch.full(after.shape, 1 / 8), rtol=0.02, atol=0)


def test_lengths_are_geometric_with_the_wanted_mean(new_model, tokenizer):
    model = new_model()
    speed_case.even_ending(model, tokenizer.eos_token_id, mean=6)
    lengths = rollout.sample(
        model, tokenizer, [[5, 6, 7]], 100, generator=torch.Generator().manual_seed(0),
        samples_per_prompt=2000,
    ).lengths.float()  # fmt: skip
    assert lengths.mean() == pytest.approx(6, abs=4 * math.sqrt(30 / 2000))  # variance m (m - 1)
    assert (lengths == 1).float().mean() == pytest.approx(1 / 6, abs=0.035)


def test_operations_are_those_that_pytorch_counts(new_model, tokenizer):
    """Both directions of a whole reading; PyTorch counts attention's upper half, too: by hand."""
    policy = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
    ids = [[5, 6, 7, 8], [9, 10, 11, 12]]
    roll = rollout.sample(policy, tokenizer, ids, 6, generator=torch.Generator().manual_seed(0))
    products = counted(lambda: rollout.score(policy, roll)[0].sum().backward())
    tokens, responses = roll.sequences.numel(), int(roll.lengths.sum())
    found, moved = update_work(policy, [roll.sequences.shape[1]] * 2, responses)
    assert moved == 0
    attention = 2 * 3 * looks(roll.sequences.shape[1])  # both rows, forwards and backwards
    # The first of two layers gets its input from the embedding, which needs no gradient: six
    # products fewer of 32 by 32 and of its adapters.
    fewer = tokens * 2 * 3 * (32 * 32 + 4 * 32)
    assert found - attention - fewer == pytest.approx(products, rel=1e-6)


def counted(work):
    """Return the operations of products that PyTorch counts, those of attention left out."""
    with fused.plain(), FlopCounterMode(display=False) as counter:
        work()
    found = counter.get_flop_counts()["Global"]
    return sum(n for op, n in found.items() if "attention" not in str(op))


def looks(tokens):
    """Operations of attention in the little model: 2 layers of width 32, queries and weights."""
    return 2 * 4 * 32 * sum(range(1, tokens + 1))


def test_a_rollouts_work_is_what_pytorch_counts(new_model, tokenizer):
    """Prompts without padding, a merged adapter; the head reads no more than it must."""
    policy = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
    ids = [[5, 6, 7, 8], [9, 10, 11, 12]]
    found = {}

    def work():
        with lora.reference(policy):  # without its adapter it is as large as with it merged
            options = {"temperature": 0.0, "max_new_tokens": 6}
            found["roll"] = rollout.sample(policy, tokenizer, ids, **options)

    products = counted(work)
    lengths = found["roll"].lengths.tolist()
    assert lengths == [6, 6]  # none ends early: the plain decoder reads no token for nothing
    flops, moved = speed_case.rollout_work(policy, [4, 4], lengths)
    assert flops - 2 * looks(4 + 6 - 1) == pytest.approx(products, rel=1e-6)
    blocks, _, head = speed_case.weights(policy)
    # the second response token looks back at 4, the third at 5, ... the sixth at 8
    groups, head_dim = policy.config.num_key_value_heads, 32 // policy.config.num_attention_heads
    cache = 2 * 2 * groups * head_dim * 2 * (4 + 5 + 6 + 7 + 8)  # keys and values, layers, rows
    assert moved == 2 * (6 * (blocks + head) + cache)
    assert speed_case.rollout_work(policy, [4, 4], lengths, 4)[1] == 2 * moved


def test_a_steps_operations_are_those_of_its_parts(new_model, tokenizer):
    """Two prompts of 4 tokens, two responses of 5 tokens to each, by hand."""
    policy = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
    blocks, adapter, head = speed_case.weights(policy)
    read, logits = 2 * 4 + 4 * 4, 4 * 5
    forward = 2 * blocks * read + 2 * head * logits
    update = 2 * forward + 2 * adapter * read + 4 * adapter * read
    assert speed_case.step_work((blocks, adapter, head), 8.0, 4, 20) == (2 * forward + update, 0)


def record(kind, tokens, seconds, flops=0.0, moved=0.0, **changes):
    """A record as :func:`speed.measure` makes it, of one engine beside another half as fast."""
    n = len(seconds)
    ours = {"tokens": tokens, "seconds": seconds, "held_mb": [1.0], "peak_mb": 9.0}
    ours |= {"flops": [flops] * n, "moved": [moved] * n}
    slow = {**ours, "seconds": [2 * s for s in seconds]}
    return {
        "kind": kind,
        "case": dataclasses.asdict(dataclasses.replace(SMALL, **changes)),
        "device": {},
        "limits": {"bfloat16": 1000.0, "float32": 100.0, "bytes": 10.0},
        "engines": {"trl": slow, "reft_lib": ours},
    }


def test_the_table_by_hand():
    frame = speed_records.table([record("step", [10, 20, 60], [1.0, 2.0, 3.0], flops=500.0)])
    ours = frame[frame["engine"] == "reft_lib"].iloc[0]
    assert (ours["tokens_per_second"], ours["low"], ours["high"]) == (10, 10, 20)
    assert ours["seconds"] == 2
    assert ours["ratio"] == 2 and ours["share"] == 0.25  # 500 / 2 s of 1000 a second
    text = speed_records.as_text([record("step", [10, 20, 60], [1.0, 2.0, 3.0], flops=500.0)])
    assert "10 (10 to 20)" in text and "25%" in text and "2.00" in text


@pytest.mark.parametrize(
    ("flops", "moved", "bf16", "wanted"),
    [
        (500.0, 5.0, True, 0.25),  # arithmetic and memory: half a second each, of two
        (500.0, 8.0, True, 0.4),  # memory is the slower one
        (100.0, 8.0, False, 0.5),  # arithmetic, in float32
        (0.0, 0.0, True, None),
    ],
)
def test_the_share_of_the_limit_by_hand(flops, moved, bf16, wanted):
    made = record("step", [10], [2.0], flops=flops, moved=moved, bf16=bf16)
    assert speed_records.share(made, "reft_lib") == wanted


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_growth_is_the_exponent(power):
    sizes = [100, 200, 400, 1600]
    records = [record("step", [n], [0.001 * n**power]) for n in sizes]
    assert speed_records.growth(records) == pytest.approx(power)
    other = [record("step", [n], [5.0], model="other") for n in sizes]
    assert speed_records.growth(records + other) == pytest.approx(power)
    with pytest.raises(UserError, match="two sizes"):
        speed_records.growth(records[:1] + other)


def test_memory_held_and_its_drift():
    """Ten steps: 9 MB at first, 10 in the second tenth, 12 in the last."""
    held = [9.0, 10.0, *[11.0] * 7, 12.0]
    long = record("memory", [1], [1.0])
    long["engines"]["reft_lib"]["held_mb"] = held
    assert speed_records.held([record("step", [1], [1.0]), long]) == (held, pytest.approx(0.2))
    with pytest.raises(UserError, match="no long run of other"):
        speed_records.held([long], "other")


def test_records_are_kept_and_damaged_ones_named(tmp_path, monkeypatch):
    made = []

    def measure(kind, case, rounds, engines):
        made.append((kind, case.rows))
        return record(kind, [10], [1.0], rows=case.rows)

    monkeypatch.setattr(speed, "measure", measure)
    assert len(speed.bench(("nano",), ("step",), out=tmp_path)) == 5
    assert made == [("step", rows) for rows in (16, 32, 64, 128, 256)]
    (tmp_path / "step-nano-32-64-32.json").unlink()
    speed.bench(("nano",), ("step",), out=tmp_path)
    assert made[5:] == [("step", 32)]
    (tmp_path / "step-nano-16-64-32.json").write_text("{}")
    with pytest.raises(UserError, match=r"step-nano-16-64-32\.json: no record"):
        speed_records.read(tmp_path)
    with pytest.raises(UserError, match="not yet run"):
        speed_records.read(tmp_path / "nowhere")


def test_a_measurement_end_to_end_and_errors_by_name():
    found = speed.measure("rollout", SMALL, 2, ("reft_lib",))
    one = found["engines"]["reft_lib"]
    assert len(one["seconds"]) == len(one["tokens"]) == 2 and min(one["seconds"]) > 0
    assert all(4 <= n <= 40 for n in one["tokens"]) and one["peak_mb"] > 100
    assert found["limits"]["float32"] > 1e8 and found["limits"]["bytes"] > 1e7
    json.dumps(found)
    broken = dataclasses.replace(SMALL, model="no-such-model/at-all")
    with pytest.raises(UserError, match="update, plain: UserError: no-such-model/at-all"):
        speed.measure("update", broken, 1, ("plain",))


@pytest.mark.usefixtures("small_world")
def test_all_engines_do_the_same_work():
    """In this process, with gates that open twice: as many tokens from the same prompts."""

    class Twice(speed_case.Gate):
        def __init__(self):
            super().__init__(None)
            self.counts = []

        def wait(self):
            return len(self.counts) < 2

        def done(self, tokens, work):
            self.counts.append((tokens, *work()))

    counts = {}
    for kind, engines in (speed_work.ENGINES | {"on GPU": speed_work.ON_GPU}).items():
        for name, engine in engines.items():
            if name == "trl":
                continue
            gate = Twice()
            engine(dataclasses.replace(SMALL, bf16=False), gate)
            counts[kind, name] = gate.counts
    for kind in speed_work.ENGINES:
        assert counts[kind, "plain"] == counts[kind, "reft_lib"], kind
    for (kind, name), found in counts.items():  # others draw other numbers: other lengths
        for tokens, flops, moved in found:
            sampled = kind in ("rollout", "on GPU")
            most = SMALL.rows * (SMALL.most if sampled else 100)  # updates count prompts, too
            assert SMALL.rows <= tokens <= most and flops > 0, name
            assert (moved > 0) == sampled, name


def test_others_work_without_this_librarys_layers(monkeypatch):
    """The switch is off while ``generate`` samples and while trl trains."""
    seen = {}

    class Policy:
        device = torch.device("cpu")

        def generate(self, input_ids, **options):
            seen["generate"] = switch.enabled()
            return torch.cat([input_ids, torch.full((len(input_ids), 3), 2)], dim=1)

    class Tokenizer:
        eos_token_id = 2

    for engine in (speed_work._generate, speed_work._static):
        assert engine(Policy(), Tokenizer(), [[5, 6], [7]], SMALL, 0) == [1, 1]
        assert seen.pop("generate") is False

    class Once(speed_case.Gate):
        def __init__(self):
            super().__init__(None)

        def wait(self):
            return "tokens" not in seen

        def done(self, tokens, work):
            seen["tokens"], seen["work"] = tokens, work()

    def reward(texts):
        seen["trl"] = switch.enabled()
        return [float(len(text)) for text in texts]

    monkeypatch.setattr(speed_work, "_reward", reward)
    with pytest.raises(SystemExit):
        speed_work._step_trl(SMALL, Once())
    assert seen["trl"] is False and 4 <= seen["tokens"] <= 40
    policy, tokenizer = speed_case.policy_of(SMALL)  # without the second adapter of trl's reference
    ids = rollout.encode(tokenizer, speed_case.questions(SMALL, tokenizer), "ncot")
    prompts = sum(map(len, ids)) / 2
    counts = speed_case.weights(policy)
    assert seen["work"] == speed_case.step_work(counts, prompts, 4, seen["tokens"])
    assert switch.enabled()


def test_sizes_for_a_gpu_go_to_512_rows(monkeypatch):
    name = "smollm2-135m-instruct"
    here = {kind: speed.cases(name, kind, "cpu") for kind in speed.KINDS}
    monkeypatch.setattr(models, "pick_device", lambda device: torch.device("cuda"))
    there = {kind: speed.cases(name, kind) for kind in speed.KINDS}
    for kind in ("rollout", "update", "step"):
        assert max(case.rows for case in here[kind]) <= 64 and there[kind][-1].rows == 512
        assert {(case.micro, case.at_once) for case in there[kind]} == {(128, 128)}  # the same
    assert [case.rows for case in there["memory"]] == [16]
    assert max(case.rows for case in speed.cases("nano", "rollout")) == 256


def test_what_is_made_for_gpus_works_elsewhere_if_it_is_asked_for():
    found = speed.measure("rollout", SMALL, 1, ("generate_batch",))
    assert list(found["engines"]) == ["generate_batch"]
    assert found["engines"]["generate_batch"]["moved"][0] > 0


def test_what_is_made_for_gpus_may_fail(capsys):
    class Pipe:
        def __init__(self, *answers):
            self.answers = list(answers)

        def send(self, wanted):
            assert wanted is True

        def poll(self, seconds):
            return True

        def recv(self):
            return self.answers.pop(0)

    good, bad = {"seconds": 1.0}, {"error": "no compiler"}
    pipes = {"generate": Pipe(good, good), "generate_static": Pipe(good, bad)}
    assert speed._round(pipes, "rollout", ()) == {"generate": good}
    assert list(pipes) == ["generate"]
    said = capsys.readouterr().out
    assert "rollout, generate_static: no compiler; measured without it" in said
    with pytest.raises(UserError, match="generate_static: no compiler"):
        speed._round({"generate_static": Pipe(bad)}, "rollout", ("generate_static",))
    with pytest.raises(UserError, match="generate: no compiler"):
        speed._round({"generate": Pipe(bad)}, "rollout", ())


def test_bad_options_are_one_line(capsys):
    assert cli.main(["bench", "--rounds", "0"]) == 2
    assert "--rounds is 0" in capsys.readouterr().err
    assert cli.main(["bench", "--kinds", "walk"]) == 2
    assert "unknown kind 'walk'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux")
def test_a_process_does_not_count_its_parents_peak():
    held = torch.ones(2**28)  # 1 GiB here
    code = "from reft_lib import speed_case; print(speed_case.peak_memory())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(said.stdout) < held.numel() * 4 / 1e6 < speed_case.peak_memory()
