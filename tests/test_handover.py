"""Our rows and our reward elsewhere: trl trains with them; for the others we call the functions."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import inspect
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from reft_lib import adapter_files, handover, handover_ray, lora, prompts
from reft_lib.config import LoraSettings
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.rewards import AnswerReward

CHOICES = Example(
    "mathqa-1",
    "What is half of 8?\na ) 3 , b ) 4 , c ) 5 , d ) 8 , e ) none",
    "B",
    meta={"options": {"A": "3", "B": "4"}},
)
# response, example's place (4: multiple choice), reward
CASES = [
    ("12 + 5 = 17 after buying.\nTherefore, the answer is: 17", 0, 1.0),
    ("Therefore, the answer is: 18", 0, 0.1),
    ("I do not know.", 0, 0.0),
    ("Half of it is four.\nTherefore, the answer is: 4", 4, 1.0),  # the number stands for B
    ("Therefore, the answer is: C", 4, 0.0),
]


@pytest.fixture
def asked(examples):
    return [*examples, CHOICES]


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


# ---------------------------------------------------------------- trl


def test_a_row_holds_all_that_a_reward_reads(asked):
    for e, row in zip(asked, handover.trl_rows(asked, "ncot"), strict=True):
        assert handover.example(row) == replace(e, ncot=None, pcot=None)
        assert row["prompt"] == prompts.prompt(e, "ncot")
        assert all(isinstance(x, str) for x in row.values())


def test_trl_reward_by_a_table(asked):
    logged = {}
    rows = [handover.trl_rows(asked, "ncot")[i] for _, i, _ in CASES]
    reward = handover.trl_reward(AnswerReward("ncot"))
    for said in (lambda x: x, lambda x: [{"role": "assistant", "content": x}]):
        found = reward(
            completions=[said(response) for response, _, _ in CASES],
            completion_ids=[[1]] * len(CASES),
            trainer_state=None,
            log_metric=logged.__setitem__,
            prompts=[row["prompt"] for row in rows],
            **{k: v for k, v in columns(rows).items() if k != "prompt"},
        )
        assert found == [worth for _, _, worth in CASES]
    assert logged == {"accuracy": 2 / 5} and reward.__name__ == "AnswerReward"


def test_any_reward_of_ours_will_do(examples):
    """A reward that reads what an example carries besides its answer."""

    def by_kind(responses, examples):
        grades = AnswerReward("ncot")(responses, examples)
        return [
            replace(g, reward=len(e.meta["kinds"])) for g, e in zip(grades, examples, strict=True)
        ]

    row = handover.fields(replace(examples[0], meta={"kinds": ["a", "b"]}))
    found = handover.trl_reward(by_kind)(completions=["x"], **columns([row]))
    assert found == [2] and handover.trl_reward(by_kind).__name__ == "by_kind"


def test_rows_that_are_not_ours_are_refused(examples):
    with pytest.raises(UserError, match="a row has no 'meta'; make the rows with"):
        row = {k: v for k, v in handover.fields(examples[0]).items() if k != "meta"}
        handover.trl_reward(AnswerReward("ncot"))(completions=["1"], **columns([row]))


@pytest.fixture
def trl():
    pytest.importorskip("datasets", reason="datasets is not installed: trl is not tried")
    return pytest.importorskip("trl", reason="trl is not installed: nothing is trained with it")


class Notes:
    """Our reward, with a note of all that it was asked."""

    def __init__(self):
        self.reward, self.asked, self.given = AnswerReward("ncot"), [], []

    def __call__(self, responses, examples):
        graded = self.reward(responses, examples)
        self.asked += zip(responses, examples, strict=True)
        self.given += [g.reward for g in graded]
        return graded


def test_trl_trains_from_our_adapter_with_our_reward(trl, tmp_path, new_model, tokenizer, asked):
    """Adapter in, two steps of GRPO, adapter out; the rewards it logs are ours."""
    from datasets import Dataset

    warm = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
    with torch.no_grad():
        for p in lora.trainable_parameters(warm):
            p.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    adapter_files.save_adapter(warm, tmp_path / "warm")

    policy = adapter_files.load_adapter(new_model(), tmp_path / "warm")
    start = [p.detach().clone() for p in lora.trainable_parameters(policy)]
    notes = Notes()
    trainer = trl.GRPOTrainer(
        model=policy,
        reward_funcs=handover.trl_reward(notes),
        train_dataset=Dataset.from_list(handover.trl_rows(asked, "ncot")),
        processing_class=tokenizer,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=8,
            max_steps=2,
            learning_rate=1e-2,
            beta=0.04,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            seed=3,
        ),
    )
    # Half of the answers made right, so that there is something to learn and to log.
    generate = trainer._generate_single_turn

    def helped(*args, **kwargs):
        found = generate(*args, **kwargs)
        known = {prompts.prompt(e, "ncot"): e.answer for e in asked}
        prompt_texts = tokenizer.batch_decode(args[0], skip_special_tokens=True)
        for i in range(0, len(found[0]), 2):
            text = f"Therefore, the answer is: {known[prompt_texts[i]]}"
            found[0][i][:] = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        return found

    trainer._generate_single_turn = helped
    trainer.train()

    logged = [row for row in trainer.state.log_history if "rewards/Notes/mean" in row]
    assert len(logged) == 2 and len(notes.given) == 8
    for step, row in enumerate(logged):
        mine = notes.given[4 * step : 4 * step + 4]
        again = AnswerReward("ncot")(*zip(*notes.asked[4 * step : 4 * step + 4], strict=True))
        assert [g.reward for g in again] == mine
        assert row["rewards/Notes/mean"] == pytest.approx(sum(mine) / 4)
        assert row["accuracy"] == pytest.approx(sum(g.correct for g in again) / 4)
    assert max(notes.given) == 1 > min(notes.given)
    # its reference is a copy of the adapter that it was given, our warm-up policy
    theirs = trainer.model
    assert set(theirs.peft_config) == {"default", "ref"}
    for mine, copied in zip(start, lora.adapter_parameters(theirs, "ref"), strict=True):
        assert torch.equal(mine, copied)

    adapter_files.save_adapter(theirs, tmp_path / "ours")
    trainer.save_model(str(tmp_path / "theirs"))
    moved = [p.detach() for p in lora.adapter_parameters(theirs, "default")]
    assert any(not torch.equal(a, b) for a, b in zip(start, moved, strict=True))
    for folder in ("ours", "theirs"):
        back = adapter_files.load_adapter(new_model(), tmp_path / folder)
        for a, b in zip(moved, lora.trainable_parameters(back), strict=True):
            assert torch.equal(a, b), folder


def test_trl_tokenises_a_prompt_as_we_do(trl, new_model, tokenizer, asked):
    """Its trainer's own function, on a tokenizer that begins texts with a token and on ours."""
    from types import SimpleNamespace

    rows = handover.trl_rows(asked, "ncot")
    for tok in (tokenizer, with_bos(tokenizer)):
        trainer = SimpleNamespace(processing_class=tok, _tokenizer=tok, _is_vlm=False)
        found = trl.GRPOTrainer._tokenize_prompts(trainer, [row["prompt"] for row in rows])[0]
        assert found == prompts.encode_prompts(tok, [row["prompt"] for row in rows])


# ---------------------------------------------------------------- verl and OpenRLHF


def with_bos(tokenizer):
    """Return a copy of a tokenizer that puts its end token before each text, as Llama's does."""
    tok = copy.deepcopy(tokenizer)
    tok.bos_token = tok.eos_token
    tok.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tok.bos_token} $A", special_tokens=[(tok.bos_token, tok.bos_token_id)]
    )
    return tok


def by_path(name):
    """Load a function as both libraries do: by its file's path, in no package."""
    spec = importlib.util.spec_from_file_location("custom_module", handover_ray.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "custom_module" not in sys.modules
    return getattr(module, name)


def test_the_module_asks_for_neither_library():
    code = "import sys, reft_lib.handover_ray; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"verl", "openrlhf", "ray", "trl", "vllm"} & set(done.stdout.split())


def test_compute_score_as_verl_calls_it(asked):
    """Keywords; from several threads; ``extra_info`` with entries of verl's own."""
    rows = handover_ray.verl_rows(asked, "ncot", "svamp", "train")
    assert set(rows[0]) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert [row["extra_info"]["index"] for row in rows] == list(range(5))
    score = by_path("compute_score")
    assert not inspect.iscoroutinefunction(score)

    async def ask(response, i):
        row = json.loads(json.dumps(rows[i]))  # through a file
        info = {**row["extra_info"], "num_turns": None, "rollout_reward_scores": {}}
        return await asyncio.get_running_loop().run_in_executor(
            None,
            lambda: score(
                data_source=row["data_source"],
                solution_str=response,
                ground_truth=row["reward_model"]["ground_truth"],
                extra_info=info,
            ),
        )

    async def ask_all():
        return await asyncio.gather(*(ask(response, i) for response, i, _ in CASES * 4))

    found = asyncio.run(ask_all())
    assert [x["score"] for x in found] == [worth for _, _, worth in CASES] * 4
    assert [x["acc"] for x in found] == [float(worth == 1) for _, _, worth in CASES] * 4


def test_programs_are_run_for_verl_too(examples):
    row = handover_ray.verl_rows(examples, "pcot", "svamp", "train", partial=0.2)[0]
    for body, worth in (
        ("\n    return 12 + 5", 1.0),
        ("\n    return 3", 0.2),
        ("\n    while", 0.0),
    ):
        found = handover_ray.compute_score("svamp", body, "17", row["extra_info"])
        assert found == {"score": worth, "acc": float(worth == 1)}


def test_verl_rows_survive_parquet(asked, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = handover_ray.verl_rows(asked, "ncot", "svamp", "train")
    path = str(tmp_path / "train.parquet")
    datasets.Dataset.from_list(rows).to_parquet(path)
    back = datasets.load_dataset("parquet", data_files=path, cache_dir=str(tmp_path))["train"]
    assert [dict(row) for row in back] == rows


@pytest.mark.parametrize("begins", [False, True])
def test_a_plain_template_and_written_marks_leave_prompts_as_they_are(tokenizer, asked, begins):
    """What verl and OpenRLHF tokenise, as their sources do it, are our own prompt ids."""
    tok = with_bos(tokenizer) if begins else copy.deepcopy(tokenizer)
    marks = handover_ray.marks(tok)
    assert marks == {"bos": tok.bos_token if begins else "", "end": tok.eos_token}
    tok.chat_template = handover_ray.chat_template(tok)
    ours = prompts.encode_prompts(tok, [prompts.prompt(e, "ncot") for e in asked])
    for row, ids in zip(handover_ray.verl_rows(asked, "ncot", "s", "t"), ours, strict=True):
        chat = tok.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=True)
        assert list(chat["input_ids"]) == ids
    for row, ids in zip(handover_ray.openrlhf_rows(asked, "ncot", **marks), ours, strict=True):
        assert tok(row["input"], add_special_tokens=False)["input_ids"] == ids


def test_reward_func_as_openrlhf_calls_it(tokenizer, asked):
    """Three lists of one; the query is decoded from tokens, special ones included."""
    reward = by_path("reward_func")
    tok = with_bos(tokenizer)
    rows = handover_ray.openrlhf_rows(asked, "ncot", **handover_ray.marks(tok))
    for response, i, worth in CASES:
        row = json.loads(json.dumps(rows[i]))
        for ended in (True, False):
            ids = tok(row["input"] + response, add_special_tokens=False)["input_ids"]
            ids = [*ids, tok.eos_token_id] if ended else ids
            query = tok.decode(ids, skip_special_tokens=False)
            found = reward([query], [row["input"]], [row["label"]])
            assert found["rewards"].tolist() == pytest.approx([worth])
            assert found["scores"].tolist() == [float(worth == 1)]
            assert found["extra_logs"] == {"accuracy": float(worth == 1)}


def test_the_end_token_is_no_part_of_a_program(tokenizer, examples):
    row = handover_ray.openrlhf_rows(examples, "pcot", **handover_ray.marks(tokenizer))[0]
    query = row["input"] + "\n    return 12 + 5" + tokenizer.eos_token
    found = handover_ray.reward_func([query], [row["input"]], [row["label"]])
    assert found["rewards"].tolist() == [1.0]


def test_reward_func_grades_a_batch_and_the_response_alone(asked):
    """A response that repeats its prompt is read from the first one on."""
    rows = handover_ray.openrlhf_rows(asked[:2], "ncot", partial=0.3)
    said = [f"Therefore, the answer is: 17\n{rows[0]['input']}", "Therefore, the answer is: 8"]
    found = handover_ray.reward_func(
        [row["input"] + text for row, text in zip(rows, said, strict=True)],
        [row["input"] for row in rows],
        [row["label"] for row in rows],
        anything="else",
    )
    assert found["rewards"].tolist() == pytest.approx([1.0, 0.3])
    assert found["extra_logs"] == {"accuracy": 0.5}


def test_what_was_not_made_here_is_refused(asked):
    (row, *_) = handover_ray.openrlhf_rows(asked, "ncot")
    with pytest.raises(UserError, match="label '17' is not of openrlhf_rows"):
        handover_ray.reward_func(["a b"], ["a"], ["17"])
    with pytest.raises(UserError, match="made-0: the query does not hold the prompt"):
        handover_ray.reward_func(["cut"], [row["input"]], [row["label"]])
    with pytest.raises(UserError, match="a row has no 'fmt'"):
        handover_ray.compute_score("svamp", "17", "17")
