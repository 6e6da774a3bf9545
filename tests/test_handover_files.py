"""The folders for other trainers, and the files for accelerate."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml

from reft_lib import adapter_files, data, handover, handover_files, lora, models, prompts, unit
from reft_lib.cli import main
from reft_lib.config import LoraSettings, PpoConfig, RunConfig
from reft_lib.errors import UserError

ROOT = handover_files.SCRIPTS.parents[1]
CONFIG = RunConfig(
    n_train=4,
    n_validation=3,
    n_test=1,
    n_hard=0,
    ppo=PpoConfig(batch_size=12, minibatches=1, micro_batch=3, lr=3e-5, beta=0.07),
)


@pytest.fixture
def world(monkeypatch, small_world, new_model, tokenizer):
    """The small world, whose model may also be asked for in its plain precision."""
    monkeypatch.setattr(models, "load", lambda name, dtype="float32": (new_model(), tokenizer))
    return unit.load_splits(CONFIG)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_folder_for_trl(tmp_path, world):
    folder = handover_files.write("trl", CONFIG, tmp_path / "trl")
    assert sorted(p.name for p in folder.iterdir()) == [
        "run.json", "train.jsonl", "train.py", "validation.jsonl"
    ]  # fmt: skip
    run = json.loads((folder / "run.json").read_text())
    for name in ("train", "validation"):
        assert lines(folder / f"{name}.jsonl") == handover.trl_rows(world[name], "ncot")
        assert run["data"][name] == data.fingerprint(world[name])
    assert (run["group_size"], run["questions"], run["beta"], run["lr"]) == (6, 2, 0.07, 3e-5)
    assert run["adapter"] is None
    told = " ".join(p.read_text() for p in folder.iterdir())
    assert "train-0" in told and not any(e.id in told for e in world["test"])


@pytest.mark.parametrize("trainer", ["verl", "openrlhf"])
def test_the_folder_for_one_that_runs_under_ray(tmp_path, world, new_model, tokenizer, trainer):
    """Rows, a reward file that loads, a model with the warm-up merged in, a script without gaps."""
    warm = lora.add_adapter(new_model(), LoraSettings(rank=4))
    with torch.no_grad():
        for p in lora.trainable_parameters(warm):
            p.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    adapter_files.save_adapter(warm, tmp_path / "warm")
    folder = handover_files.write(trainer, CONFIG, tmp_path / "out", tmp_path / "warm")

    ids = torch.tensor([[5, 6, 7, 8]])
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, warm(ids).logits, rtol=1e-4, atol=1e-4)
        assert (merged(ids).logits - new_model()(ids).logits).abs().max() > 1e-2
    tok = AutoTokenizer.from_pretrained(folder / "model")
    first = world["train"][0]
    chat = tok.apply_chat_template([{"role": "user", "content": prompts.prompt(first, "ncot")}])
    assert (
        list(chat["input_ids"]) == prompts.encode_prompts(tok, [prompts.prompt(first, "ncot")])[0]
    )

    script = (folder / "train.sh").read_text()
    assert not re.search(r"@[A-Z_]+@", script) and "NOT RUN" in script
    assert "0.07" in script and os.access(folder / "train.sh", os.X_OK)
    subprocess.run(["bash", "-n", str(folder / "train.sh")], check=True)
    names = {"verl": "compute_score", "openrlhf": "reward_func"}
    space: dict = {}
    exec((folder / "reward.py").read_text(), space)
    if trainer == "verl":
        import pandas as pd

        row = pd.read_parquet(folder / "train.parquet").iloc[0]
        found = space[names[trainer]](
            data_source=row["data_source"],
            solution_str=f"Therefore, the answer is: {first.answer}",
            ground_truth=row["reward_model"]["ground_truth"],
            extra_info=row["extra_info"],
        )
        assert found == {"score": 1.0, "acc": 1.0}
    else:
        row = lines(folder / "train.jsonl")[0]
        query = f"{row['input']}Therefore, the answer is: {first.answer}{tokenizer.eos_token}"
        found = space[names[trainer]]([query], [row["input"]], [row["label"]])
        assert found["rewards"].tolist() == [1.0]


def test_what_cannot_be_written_is_one_line(tmp_path, world):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="there are files already; choose another --out"):
        handover_files.write("trl", CONFIG, tmp_path / "full")
    with pytest.raises(UserError, match="unknown trainer 'ray'; there are: trl, verl, openrlhf"):
        handover_files.write("ray", CONFIG, tmp_path / "new")
    odd = replace(CONFIG, ppo=replace(CONFIG.ppo, batch_size=11))
    with pytest.raises(UserError, match="ppo.batch_size is 11; no groups of 2 to 8"):
        handover_files.write("trl", odd, tmp_path / "new")
    with pytest.raises(UserError, match="no adapter_config.json in it"):
        handover_files.write("verl", CONFIG, tmp_path / "new", tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


def test_the_command(tmp_path, world, capsys):
    sizes = "--n-train 4 --n-validation 3 --n-test 1 --n-hard 0".split()
    out = ["--out", str(tmp_path / "h")]
    assert main(["handover", "--trainer", "openrlhf", *sizes, *out]) == 0
    assert capsys.readouterr().out.endswith(f"start with: bash {tmp_path / 'h'}/train.sh\n")
    assert main(["handover", *out]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert main(["handover", "--trainer", "ray", *out]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def launch(script, *, processes, **environment):
    """Run a script in some processes on the CPU, as accelerate does on GPUs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, f"--nproc-per-node={processes}", *map(str, script)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "HF_HUB_OFFLINE": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_the_script_for_trl_runs_in_two_processes(tmp_path):
    """On the nano model; the adapter that it saves is one of ours."""
    pytest.importorskip("trl", reason="trl is not installed: its script is not run")
    pytest.importorskip("datasets", reason="datasets is not installed: the script is not run")
    config = replace(
        CONFIG, sample=replace(CONFIG.sample, max_new_tokens=12), ppo=replace(CONFIG.ppo, steps=1)
    )
    folder = handover_files.write("trl", config, tmp_path / "trl")
    done = launch([folder / "train.py"], processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'rewards/AnswerReward/mean'" in done.stdout
    model, _ = models.load("nano")
    adapter_files.load_adapter(model, folder / "adapter")
    done = launch([folder / "train.py"], processes=5)
    assert done.returncode != 0 and "is no multiple of 5 processes" in done.stderr


# ---------------------------------------------------------------- accelerate


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_accelerate_reads_its_files(name, monkeypatch):
    """Its own loader refuses unknown keys; those of FSDP are held to its command line."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = str(ROOT / "data" / "accelerate" / f"{name}.yaml")
    config = load_config_from_file(path)
    parser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    assert set(config.fsdp_config) <= known and bool(config.fsdp_config) == (name == "fsdp")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    args, _, _ = _validate_launch_command(parser.parse_args(["--config_file", path, "train.py"]))
    assert args.num_processes == 8 and args.use_fsdp == (name == "fsdp")
    assert args.multi_gpu == (name == "ddp")
    if name == "fsdp":
        from accelerate import FullyShardedDataParallelPlugin

        for key, text in prepare_multi_gpu_env(args).items():
            monkeypatch.setenv(key, text)
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
        assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
        assert not plugin.activation_checkpointing


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_every_option_says_why(name):
    """A comment stands before each; those that both files have are explained in the first one."""
    text = (ROOT / "data" / "accelerate" / f"{name}.yaml").read_text()
    keys = re.findall(r"((?:^ *#.*\n)*)^ *(\w+):", text, re.MULTILINE)
    bare = {key for comment, key in keys if not comment}
    first = set(yaml.safe_load((ROOT / "data" / "accelerate" / "ddp.yaml").read_text()))
    allowed = {"machine_rank"} if name == "ddp" else first | {"fsdp_config"}
    assert len(keys) > 5 and bare <= allowed


SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import LlamaConfig, LlamaForCausalLM
from reft_lib import lora
from reft_lib.config import LoraSettings

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
shape = dict(vocab_size=60, hidden_size=48, intermediate_size=80, num_hidden_layers=2)
model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, **shape)).to(torch.bfloat16)
policy = lora.add_adapter(model, LoraSettings(rank=4))
precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
for block in policy.get_base_model().model.layers:
    fully_shard(block, mesh=mesh, mp_policy=precision)
fully_shard(policy, mesh=mesh, mp_policy=precision)
policy(input_ids=torch.randint(60, (2, 7))).logits.float().sum().backward()
b = next(p for n, p in policy.named_parameters() if "lora_B" in n)
w = next(p for n, p in policy.named_parameters() if "base_layer" in n)
shapes = f"{tuple(w.shape)} {tuple(w.to_local().shape)}"
# in one piece: the other process writes to the same place
print(f"{shapes} {w.grad is None} {bool(b.grad.full_tensor().any())}\\n", end="")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_policy_with_an_adapter_can_be_sharded(tmp_path):
    """What fsdp.yaml relies on, by PyTorch itself: frozen bfloat16 beside trained float32."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    done = launch([tmp_path / "sharded.py"], processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["(48, 48) (24, 48) True True"] * 2
