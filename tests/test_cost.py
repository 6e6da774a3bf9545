"""The cost of a step on paper: by hand, by PyTorch's counter, beside the memory estimate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from reft_lib import cost, fused, gpu_time, lora, memory
from reft_lib.config import LoraSettings, preset
from reft_lib.cost import MODELS, Plan
from reft_lib.errors import UserError

TINY = memory.Shape(1, 2, 3, 1, 1, 5)
STEP = Plan(TINY, rows=1, prompt=2, response=3, micro=1, epochs=1, rank=1)


def test_operations_by_hand():
    """One layer of width 2.

    Matrices: four of 2 by 2, three of 2 by 3, so 34 weights; a rank-1 adapter has 4 * 4 + 3 * 5.
    A token takes 2 (34 + 31) = 130, a row of logits 2 * 10 = 20, attention at place t 4 * 2 t.

    read: 2 * 130 + 8 (1 + 2) + 20; decode: 2 (130 + 20) + 8 (3 + 4).
    forward: 5 * 130 + 8 * 15 + 3 * 20 = 830; reference: 5 * 62 less.
    backward: adapter twice (5 * 62 more) and attention twice (120 more).
    """
    assert cost.operations(STEP) == {"read": 304, "decode": 356, "score": 1350, "update": 2090}
    again = cost.operations(replace(STEP, checkpointing=True))
    assert again["update"] == 2090 + 830 - 60  # the head's products are not done again
    twice = cost.operations(replace(STEP, rows=2, epochs=3))
    assert twice == {"read": 608, "decode": 712, "score": 2700, "update": 6 * 2090}


def test_bytes_by_hand():
    """Two later tokens: each reads 2 (34 + 10) + 4 * 31 = 212 bytes of weights.

    The first one reads keys and values of 2 places, the second one of 3: 2 * 2 * 2 (2 + 3) = 40.
    """
    assert cost.decoded_bytes(STEP) == 2 * 212 + 40
    wide = replace(STEP, rows=6, gpus=2)
    assert cost.decoded_bytes(wide) == 2 * 212 + 3 * 40  # a whole copy each, half of the rows
    assert cost.decoded_bytes(replace(wide, split=2)) == (2 * 212 + 6 * 40) / 2
    assert cost.gathered_bytes(wide) == 0
    # 50 weights; 3 micro-batches a GPU, 4 passes each, half of the weights lie elsewhere
    assert cost.gathered_bytes(replace(wide, split=2)) == 3 * 4 * 0.5 * 2 * 50


def test_seconds_by_hand():
    gpu = gpu_time.Gpu("slow", 0, flops=100.0, bandwidth=232.0, link=10.0)
    found = gpu_time.seconds(STEP, gpu, 1, 1)
    # decode: 3.56 s of operations, 464 bytes / 232 = 2 s of reading
    assert found == {
        "read": 3.04, "decode": 3.56, "score": 13.5, "update": 20.9, "total": pytest.approx(41.0)
    }  # fmt: skip
    assert gpu_time.seconds(STEP, gpu, 1, 0.5)["decode"] == 4
    assert gpu_time.seconds(STEP, gpu, 0.5, 1)["update"] == pytest.approx(2 * 20.9)
    apart = replace(STEP, rows=2, gpus=2, split=2)
    # 1 micro-batch, 4 passes, 50 bytes each: 20 s for the link, less than 34.4 s of work
    assert gpu_time.seconds(apart, gpu, 1, 1)["update"] == pytest.approx(20.9)
    slower = gpu_time.seconds(apart, replace(gpu, link=1.0), 1, 1)
    assert slower["score"] + slower["update"] == pytest.approx(200)
    assert gpu_time.gpu_hours(apart, 3600, replace(gpu, link=1e9)) == pytest.approx(
        2 * gpu_time.seconds(apart, replace(gpu, link=1e9))["total"]
    )


SHAPE = memory.Shape(3, 48, 80, 4, 2, 60)
ROWS, PROMPT, RESPONSE = 2, 7, 5


@pytest.fixture
def policy():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        attn_implementation="eager",  # plain matrix products, which the counter knows
    )
    return lora.add_adapter(LlamaForCausalLM(config), LoraSettings(rank=3))


def all_places(tokens):
    """Return what attention takes if each token multiplies with all, less what is needed."""
    full = 4 * SHAPE.layers * SHAPE.hidden * tokens**2
    return ROWS * (full - cost.attention(Plan(SHAPE), tokens))


def counted(run):
    # The counter does not know sums that are made in place, as fused layers do.
    with fused.plain(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_operations_are_those_that_pytorch_counts(policy):
    step = Plan(SHAPE, ROWS, PROMPT, RESPONSE, micro=2, epochs=1, rank=3)
    expected, tokens = cost.operations(step), PROMPT + RESPONSE
    ids = torch.randint(60, (ROWS, tokens))
    state = {}

    @torch.no_grad()
    def read():
        state.update(policy(input_ids=ids[:, :PROMPT], logits_to_keep=1, use_cache=True))

    @torch.no_grad()
    def decode():
        for t in range(PROMPT, tokens - 1):
            policy(input_ids=ids[:, t : t + 1], past_key_values=state["past_key_values"])

    @torch.no_grad()
    def score():
        policy(input_ids=ids, logits_to_keep=RESPONSE)
        with lora.reference(policy):
            policy(input_ids=ids, logits_to_keep=RESPONSE)

    def update():
        embedded = policy.get_input_embeddings()(ids).detach().requires_grad_()  # as below a layer
        policy(inputs_embeds=embedded, logits_to_keep=RESPONSE).logits.sum().backward()

    assert counted(read) == expected["read"] + all_places(PROMPT)
    assert counted(decode) == expected["decode"]
    assert counted(score) == expected["score"] + 2 * all_places(tokens)
    assert counted(update) == expected["update"] + 3 * all_places(tokens)


def test_memory_is_that_of_the_estimate_for_a_preset():
    config = preset("codellama-7b-gsm8k-ncot")
    estimate = memory.estimate(config)
    step = Plan(MODELS["7B"], rows=config.ppo.batch_size, micro=config.ppo.micro_batch)
    found = {name: x / 2**30 for name, x in cost.memory(step).items()}
    assert found["weights"] == estimate["weights"] and found["cache"] == estimate["sampling"]
    assert found["activations"] + found["logits"] == pytest.approx(estimate["update"])
    assert found["adapter"] * 28 == pytest.approx(estimate["adapter"] * 16)


def test_memory_shrinks_where_it_is_spread_or_computed_anew():
    whole = Plan(MODELS["70B"], gpus=8)
    spread = replace(whole, split=8)
    a, b = cost.memory(whole), cost.memory(spread)
    assert a["weights"] / 8 < b["weights"] < a["weights"] / 7  # a layer's weights are gathered
    assert b["cache"] == a["cache"]  # 32 rows on one GPU, or 256 rows on eight
    again = cost.memory(replace(spread, checkpointing=True))
    inputs = 2 * 8 * 416 * 80 * 8192
    assert again["activations"] == pytest.approx(inputs + b["activations"] / 80)
    assert min(a["total"], b["total"]) > gpu_time.H100.memory > again["total"]


def test_shapes_have_the_sizes_of_their_names():
    found = {name: shape.parameters / 1e9 for name, shape in MODELS.items()}
    assert found == {
        "0.135B": pytest.approx(0.1345, rel=1e-3),
        "7B": pytest.approx(6.738, rel=1e-3),
        "70B": pytest.approx(70.554, rel=1e-3),
    }
    assert cost.full_fine_tuning(MODELS["7B"]) == 16 * MODELS["7B"].parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "must be at least 1"),
        ({"weights": "int4"}, "unknown weights 'int4'"),
        ({"gpus": 4, "split": 3}, "4 GPUs cannot hold copies of 3 GPUs each"),
        ({"rows": 10, "gpus": 4}, "10 rows cannot be dealt to 4 copies"),
    ],
)
def test_what_cannot_be_divided_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(STEP, **changes)


@pytest.mark.parametrize("shares", [(0, 1), (1, 1.1)])
def test_shares_are_shares(shares):
    with pytest.raises(UserError, match="above 0 and at most 1"):
        gpu_time.seconds(STEP, gpu_time.H100, *shares)
