"""Two processes do together what one does alone, and end together, whatever happens in one.

Two true processes (gloo) go through all of :data:`SCENARIOS`; the tests' own process goes through
the same ones alone, and what came of both is compared.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from test_trackers import Notebook
from torch import multiprocessing

from reft_lib import (
    cli,
    data,
    evaluate,
    lora,
    losses,
    models,
    parallel,
    ppo,
    relatives,
    reproduce,
    resume,
    rollout,
    runlog,
    self_training,
    sft,
    shared_rollout,
    trackers,
    unit,
)
from reft_lib.config import (
    LoraSettings,
    PpoConfig,
    RunConfig,
    SampleConfig,
    SelfTrainConfig,
    SftConfig,
)
from reft_lib.errors import NumericalError, UserError
from reft_lib.method_settings import RelativesConfig
from reft_lib.rewards import Graded

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(900)  # processes side by side, perhaps on a machine that is busy
SAMPLING = SampleConfig(max_new_tokens=8, batch_size=6)
TINY = RunConfig(
    n_train=5,
    n_validation=3,
    n_test=5,
    n_hard=2,
    warmup_epochs=2,
    bf16=False,
    lora=LoraSettings(rank=4, alpha=8),
    sft=SftConfig(epochs=3, batch_size=3, lr=1e-2),
    ppo=PpoConfig(steps=3, batch_size=5, eval_every=2, minibatches=2, lr=1e-3),
    sample=SampleConfig(max_new_tokens=6, batch_size=4, votes=2),
)


# ---------------------------------------------------------------- what is done, alone or together


def grade(texts, examples):
    """Reward responses by their length, so that rewards differ."""
    return [Graded(len(t) % 3 / 2, t or None, len(t) % 3 == 2) for t in texts]


def adapted(given):
    """Put an adapter that has moved away from the reference on a copy of the model."""
    policy = lora.add_adapter(copy.deepcopy(given.model), LoraSettings(rank=8, alpha=16))
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return policy


def learnt(policy, steps):
    """Run a loop to its end: metrics, weights, and the last gradient."""
    metrics = [{k: x for k, x in m.items() if k != "step_seconds"} for m in steps]
    parameters = lora.trainable_parameters(policy)
    weights = [p.detach().clone() for p in parameters]
    return {"metrics": metrics, "weights": weights, "gradient": [p.grad for p in parameters]}


def run_sft(given, micro_batch=1):
    """Batches of 3 and 1: neither can be halved, and one leaves a process without a row."""
    policy = adapted(given)
    config = SftConfig(epochs=3, batch_size=3, micro_batch=micro_batch, lr=1e-3)
    return learnt(policy, sft.sft_steps(policy, given.tokenizer, given.examples, "ncot", config))


def run_rl(given, module, train, config):
    """Run PPO or a relative of it, and keep what each rollout taught."""
    policy, seen, gather = adapted(given), [], module.gather

    def keeping(*arguments):
        seen.append(gather(*arguments))
        return seen[-1]

    with mock.patch.object(module, "gather", keeping):
        steps = train(policy, given.tokenizer, given.examples, "ncot", grade, config, SAMPLING)
        found = learnt(policy, steps)
    for name in ("old_logp", "ref_logp", "advantages"):
        found[name] = [getattr(x, name) for x in seen]
    found["sequences"] = [x.rollout.sequences for x in seen]
    found["masks"] = [(x.rollout.attention_mask, x.rollout.position_ids) for x in seen]
    found["texts"] = [(x.rollout.texts, x.rollout.ended, x.graded) for x in seen]
    return found


def run_ppo(given, **changes):
    """Seven rows in minibatches of four and three."""
    config = PpoConfig(steps=3, batch_size=7, minibatches=2, micro_batch=2, lr=1e-3)
    return run_rl(given, ppo, ppo.ppo, dataclasses.replace(config, **changes))


def run_relative(given, kind, **changes):
    """Three groups of four."""
    config = RelativesConfig(
        kind=kind, group_size=4, batch_size=12, steps=2, minibatches=1, micro_batch=4, lr=1e-3
    )
    return run_rl(given, relatives, relatives.train, dataclasses.replace(config, **changes))


def run_online(given):
    policy = adapted(given)
    config = SelfTrainConfig(steps=2, batch_size=7, micro_batch=2, minibatches=2, lr=1e-3)
    return learnt(
        policy,
        self_training.online(
            policy, given.tokenizer, given.examples, "ncot", grade, config, SAMPLING
        ),
    )


def run_evaluation(given):
    """Five questions: greedily (chunks of 6), by 2 (of 3 questions) and 4 votes (of one)."""
    policy, examples = adapted(given), [*given.examples, given.examples[0]]
    return [
        vars(evaluate.answer(policy, given.tokenizer, examples, "ncot", SAMPLING, votes, seed=1))
        for votes in (1, 2, 4)
    ]


class Ticks(resume.Clock):
    """A clock that stops the run after so many pieces of work."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def tick(self, save):
        self.left -= 1
        if self.left == 0:
            save()
            raise resume.OutOfTime


@contextmanager
def small_world(given):
    """Replace the base model and the problems by those given: five rows in each split."""
    rows = [*given.examples, given.examples[0]]
    splits = {
        split: [
            dataclasses.replace(
                e, id=f"{split}-{i}", question=f"{i}: {e.question}", meta={"paths": []}
            )
            for i, e in enumerate(rows)
        ]
        for split in ("train", "validation", "test", "hard")
    }
    new = lambda name, dtype: (copy.deepcopy(given.model), given.tokenizer)  # noqa: E731
    with mock.patch.object(models, "load", new):
        with mock.patch.object(data, "load", lambda name, split: splits[split]):
            yield


def run_unit(given, name, ticks=0):
    """Run a unit, or go on with it, in a folder that is this process's own."""
    folder, clock = given.folder / name, Ticks(ticks) if ticks else None
    with small_world(given):
        try:
            unit.run_unit(TINY, folder / "run", folder / "adapters", clock)
        except resume.OutOfTime:
            return "stopped"
    return "finished"


def run_out_of_time(given):
    """Whoever did not write the state must not read it: it may not be there, or not be whole."""
    where = mock.Mock(return_value="", side_effect=None if parallel.is_first() else OSError)
    with small_world(given), mock.patch.object(reproduce, "where", where):
        return reproduce.reproduce(TINY, given.folder / "short", "cpu", minutes=1e-9)


def fail_in_a_loss(given):
    """One process alone meets a loss that is not finite."""
    policy = adapted(given)
    before = [p.detach().clone() for p in lora.trainable_parameters(policy)]
    spoil = parallel.rank() == 1
    nan = mock.Mock(return_value=(torch.tensor(float("nan")), {}))
    config = PpoConfig(steps=1, batch_size=4, minibatches=1)
    try:
        with mock.patch.object(losses, "policy_loss", nan if spoil else losses.policy_loss):
            list(ppo.ppo(policy, given.tokenizer, given.examples, "ncot", grade, config, SAMPLING))
    finally:
        now = lora.trainable_parameters(policy)
        assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


def fail_in_a_reward(given):
    def refuse(texts, examples):
        if parallel.rank() == 1:
            raise UserError("this reward cannot grade")
        return grade(texts, examples)

    config = PpoConfig(steps=1, batch_size=4)
    steps = ppo.ppo(
        adapted(given), given.tokenizer, given.examples, "ncot", refuse, config, SAMPLING
    )
    list(steps)


def fail_in_writing(given):
    """The first process alone cannot write."""
    given.folder.mkdir(exist_ok=True)
    (given.folder / "file").write_text("")
    run_unit(given, "file")


def fail_by_a_bug(given):
    if parallel.rank() == 1:
        raise KeyError("a bug")
    parallel.gather(0)


def fail_after_the_others(given):
    """One process fails when the other has nothing more to do."""
    if parallel.rank() == 0:
        raise UserError("too late")


def run_tracker(given):
    """A tracker of the first process ends, and the processes are still connected."""
    if parallel.is_first():
        watch, finish = trackers.start([Notebook()], given.folder, {})
        watch(1, {"loss": 1.0})
        finish()
    return parallel.from_first(lambda: "connected")


def exchange(given):
    """Find out what the ways of exchanging do."""
    x = torch.tensor([parallel.rank() + 1.0])
    parallel.sum_tensors(x)
    rows = list(range(7))
    return {
        "sum": x.item(),
        "mine": parallel.gather(parallel.mine(rows)),
        "dealt": parallel.gather(parallel.deal(rows)),
        "from first": parallel.from_first(lambda: f"made by {parallel.rank()}"),
        "empty": [parallel.gather(parallel.mine(rows[:1])), parallel.gather(parallel.deal([5]))],
        "world": parallel.world(),
    }


SCENARIOS: dict[str, Any] = {
    "sft": run_sft,
    "sft whole": lambda given: run_sft(given, micro_batch=64),
    "ppo": run_ppo,
    "ppo per token": lambda g: run_ppo(g, mean_per="token", value_trunk="separate", ppo_epochs=1),
    "grpo": lambda given: run_relative(given, "grpo", mean_per="token", update_epochs=2),
    "grpo, one step": lambda given: run_relative(given, "grpo", update_epochs=1),
    "rloo": lambda given: run_relative(given, "rloo", group_size=2, minibatches=2),
    "online": run_online,
    "evaluation": run_evaluation,
    "unit": lambda given: run_unit(given, "unit"),
    "out of time": run_out_of_time,
    "tracker": run_tracker,
    "exchange": exchange,
}
RESUMED = {
    "first half": lambda given: run_unit(given, "2 to 1", ticks=17),
    "second half": lambda given: run_unit(given, "1 to 2"),
}
FAILING = {
    "loss": (fail_in_a_loss, NumericalError, "PPO step 1: loss is nan; lower ppo.lr"),
    "reward": (fail_in_a_reward, UserError, "this reward cannot grade"),
    "writing": (fail_in_writing, UserError, "cannot write a run here"),
    "bug": (fail_by_a_bug, UserError, "process 1 failed: KeyError: 'a bug'"),
    "late": (fail_after_the_others, UserError, "too late"),
}
COMMANDS = {
    "compare": (["compare", "--preset", "nano"], "only reproduce runs in several processes"),
    "study": (["study"], "only reproduce runs in several processes"),
    "bad option": (["reproduce", "--sedd", "1"], "unknown option '--sedd'"),
}
# What depends on how rows are cut into micro-batches, with one process as well: a mean of maxima,
# one of shares of variances, and a comparison that the last bit can decide.
BY_MICRO_BATCH = {"ratio_max", "explained_variance", "value_clip_fraction"}


# ---------------------------------------------------------------- two processes


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def work(rank, ports, given):
    """Go through all scenarios as one of two processes; what comes of each goes to the disk."""
    said = os.open(given.folder / f"said-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    given.folder = given.folder / f"own-{rank}"  # as on two machines that share no disk
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    found: dict[str, Any] = {}
    ports = iter(ports)
    for name, scenario in {**SCENARIOS, **RESUMED}.items():
        os.environ["MASTER_PORT"] = str(next(ports))
        with parallel.session():
            found[name] = scenario(given)
    for name, (scenario, _, _) in FAILING.items():
        os.environ["MASTER_PORT"] = str(next(ports))
        try:
            with parallel.session():
                scenario(given)
        except Exception as error:
            found[name] = error
    os.write(said, b"COMMANDS\n")
    for name, (arguments, _) in COMMANDS.items():
        os.environ["MASTER_PORT"] = str(next(ports))
        found[name] = cli.main(arguments)
    torch.save(found, given.folder.parent / f"found-{rank}.pt")


@pytest.fixture(scope="module")
def given(tokenizer, tmp_path_factory, request):
    """Model, tokenizer and questions, which cross to other processes."""
    from conftest import examples, new_model

    make, rows = (fixture.__wrapped__ for fixture in (new_model, examples))
    model, folder = make(tokenizer)(), tmp_path_factory.mktemp("parallel")
    model.get_input_embeddings().weight.data[tokenizer.eos_token_id] *= 3  # some responses end
    return SimpleNamespace(model=model, tokenizer=tokenizer, examples=rows(), folder=folder)


@pytest.fixture(scope="module")
def alone(given):
    """What comes of one process; it also begins a unit for two, in the first one's folder."""
    own = SimpleNamespace(**vars(given) | {"folder": given.folder / "own-0"})
    assert run_unit(own, "1 to 2", ticks=17) == "stopped"
    own.folder = given.folder / "alone"
    return {name: scenario(own) for name, scenario in SCENARIOS.items()}


@pytest.fixture(scope="module")
def together(given, alone):
    """What comes of two processes, as (first, second); they are ended if they hang."""
    context = multiprocessing.get_context("spawn")
    ports = free_ports(len(SCENARIOS) + len(RESUMED) + len(FAILING) + len(COMMANDS))
    started = [context.Process(target=work, args=(rank, ports, given)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(400)
    hanging = [process.is_alive() for process in started]
    for process in started:
        process.kill()
    said = (given.folder / "said-0.txt").read_text() + (given.folder / "said-1.txt").read_text()
    assert not any(hanging), f"processes hang: {hanging}\n{said}"
    assert [process.exitcode for process in started] == [0, 0], said
    return [torch.load(given.folder / f"found-{r}.pt", weights_only=False) for r in (0, 1)]


def check_same(a, b, where=""):
    """Compare nested results; floating-point numbers within a tolerance."""
    rtol, atol = 1e-4, 2e-5
    if isinstance(a, torch.Tensor) and a.is_floating_point():
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m: f"{where}: {m}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - BY_MICRO_BATCH:
            check_same(a[key], b[key], f"{where} {key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            check_same(x, y, f"{where} {i}")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=rtol, abs=atol, nan_ok=True), where
    else:
        assert a == b, where


# ---------------------------------------------------------------- tests


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "exchange"])
def test_two_processes_do_what_one_does(alone, together, name):
    for found in together:
        check_same(found[name], alone[name], name)


def test_rollouts_have_responses_of_many_lengths(alone):
    """Else a mean over responses could pass for one over tokens."""
    for name in ("ppo", "ppo per token", "grpo"):
        assert {bool(e) for _, ended, _ in alone[name]["texts"] for e in ended} == {False, True}


@pytest.mark.parametrize("name", ["sft", "ppo", "grpo", "online"])
def test_weights_are_the_same_to_the_bit_in_both(together, name):
    first, second = (found[name]["weights"] for found in together)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_exchanges_by_hand(together):
    for found in together:
        assert found["exchange"] == {
            "sum": 3.0,
            "mine": [[0, 1, 2], [3, 4, 5, 6]],
            "dealt": [[0, 2, 4, 6], [1, 3, 5]],
            "from first": "made by 0",
            "empty": [[[], [0]], [[5], []]],
            "world": 2,
        }


def test_with_one_process_nothing_is_exchanged(alone):
    rows = torch.arange(5)
    assert parallel.mine(rows).equal(rows) and parallel.deal(rows).equal(rows)
    assert parallel.gather(3) == [3] and parallel.from_first(lambda: 4) == 4
    stats = {"loss": 1.0}
    assert parallel.sum_gradients([], stats) is stats
    assert not torch.distributed.is_initialized()


def lines(folder):
    """What a run has measured, without what a clock wrote."""
    rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def test_a_run_goes_on_with_another_number_of_processes(given, alone, together):
    one = SimpleNamespace(**vars(given) | {"folder": given.folder / "own-0"})
    assert [found["first half"] for found in together] == ["stopped"] * 2
    assert run_unit(one, "2 to 1") == "finished"  # the second half alone
    assert [found["second half"] for found in together] == ["finished"] * 2
    expected = lines(given.folder / "alone" / "unit")
    assert {row["split"] for row in expected} == {"train", "validation", "test", "hard"}
    for name in ("unit", "2 to 1", "1 to 2"):
        check_same(lines(one.folder / name), expected, name)
    cards = {name: runlog.read_card(one.folder / name / "run") for name in ("unit", "1 to 2")}
    assert cards["unit"]["device"]["processes"] == cards["1 to 2"]["device"]["processes"] == 2
    assert "processes" not in cards["1 to 2"]["earlier"][0]["device"]


def test_only_the_first_process_writes_and_prints(given, together):
    assert (given.folder / "own-0" / "unit" / "adapters" / "run-reft").is_dir()
    assert not list((given.folder / "own-1").rglob("run")), "the second has written a run"
    assert not list((given.folder / "own-1").rglob("adapters"))
    said = (given.folder / "said-1.txt").read_text().splitlines()
    assert [line for line in said if "[Gloo]" not in line] == ["COMMANDS"]


@pytest.mark.parametrize("name", FAILING)
def test_an_error_in_one_process_is_one_in_both(together, name):
    _, kind, message = FAILING[name]
    first, second = (found[name] for found in together)
    assert type(first) is kind and message in str(first) and "\n" not in str(first)
    if name == "bug":  # whoever has it shows it as it is
        kind, message = KeyError, "a bug"
    assert type(second) is kind and message in str(second)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_refused_command_is_one_line_of_the_first(given, together, name):
    assert [found[name] for found in together] == [2, 2]
    said = (given.folder / "said-0.txt").read_text().partition("COMMANDS\n")[2].splitlines()
    said = [line for line in said if "[Gloo]" not in line]
    assert len(said) == len(COMMANDS) and all(line.startswith("error: ") for line in said)
    assert COMMANDS[name][1] in said[list(COMMANDS).index(name)]


def test_rollouts_of_different_widths_are_joined(new_model, tokenizer):
    model, eos = new_model(), tokenizer.eos_token_id
    prompts, numbers = [[5, 6, 7], [8], [9, 10]], torch.rand(6, 5)
    whole = rollout.sample(model, tokenizer, prompts, 5, samples_per_prompt=2, uniforms=numbers)
    parts = [
        rollout.sample(model, tokenizer, prompts[a:b], 5, samples_per_prompt=2, uniforms=x)
        for a, b, x in ((0, 1, numbers[:2]), (1, 3, numbers[2:]))
    ]
    check_same(vars(shared_rollout.join(parts, eos)), vars(whole), "joined")


def test_help_needs_neither_torch_nor_accelerate():
    code = (
        "import sys, reft_lib\nfrom reft_lib import cli\ntry:\n    cli.main(['--help'])\n"
        "except SystemExit:\n    pass\nassert not {'torch', 'accelerate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.slow
def test_the_command_under_accelerate_launch(tmp_path, monkeypatch):
    small = (
        "reproduce --preset nano --n-train 6 --n-validation 3 --n-test 3 --n-hard 0 --n-voted 2 "
        "--sft.epochs 1 --sft.batch-size 3 --warmup-epochs 1 --ppo.steps 2 --ppo.batch-size 6 "
        "--ppo.minibatches 2 --sample.max-new-tokens 16 --sample.votes 2 --device cpu --no-bf16"
    ).split()
    (port,) = free_ports(1)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    # with --cpu accelerate starts one process, whatever their number
    launch += [
        "--multi_gpu",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    launch += ["--main_process_port", str(port), "-m", "reft_lib"]
    done = subprocess.run(
        [*launch, *small, "--out", str(tmp_path / "two")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == 2 and done.stdout.count("sft") == 1, done.stdout
    assert cli.main([*small, "--out", str(tmp_path / "one")]) == 0
    one, two = (tmp_path / name / "ncot-seed0" for name in ("one", "two"))
    for folder in (one, two):
        (folder / "run").symlink_to(folder)
    assert runlog.read_card(two)["device"]["processes"] == 2
    check_same(lines(two), lines(one), "launched")
