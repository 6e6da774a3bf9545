"""The loop of instruction fine-tuning: templates, masks, packing, one batch learnt by heart."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from reft_lib import data, instruction_tuning, lora, prompts, sft
from reft_lib.config import LoraSettings, SampleConfig, SftConfig
from reft_lib.errors import UserError
from reft_lib.instruction_tuning import answer, by_task, encode, judge, prompt, requests, tune
from reft_lib.instruction_words import PLAIN
from reft_lib.instructions import SEEN, UNSEEN

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def train():
    return data.load("embedded", "train")[:6]


def test_requests_are_drawn_by_seed(train):
    some = requests(train, seed=3)
    assert some == requests(train, seed=3) != requests(train, seed=4)
    assert [r.task for r in some[:: len(train)]] == list(SEEN) and len(some) == 7 * len(train)
    assert len({r.id for r in some}) == len(some)
    for r in some:
        assert r.text.startswith(r.example.question) and r.text.endswith("\n" + r.instruction)
    twice = requests(train, ("solve", "solve"))
    assert {r.instruction for r in twice} <= set(PLAIN["solve"].seen)
    assert [r.instruction for r in twice[:6]] != [r.instruction for r in twice[6:]]
    first = requests(train, SEEN, variety=1)
    assert {r.instruction for r in first if r.task == "numbers"} == {PLAIN["numbers"].seen[0]}
    back = requests(train, ("numbers",), kept_back=True)
    assert {r.instruction for r in back} <= set(PLAIN["numbers"].kept_back)


def test_malformed_requests_are_refused(train):
    with pytest.raises(UserError, match="unknown task 'sing'; there are: solve"):
        requests(train, ("sing",))
    with pytest.raises(UserError, match="unknown language 'latin'; there are: plain, english"):
        requests(train, language="latin")
    with pytest.raises(UserError, match="no phrasing of task 'last' is kept back"):
        requests(train, UNSEEN[1:], kept_back=True)


def test_nanos_template_is_the_plain_prompt(tokenizer, train):
    for e in train:
        assert prompt(tokenizer, e.question) == prompts.prompt(e, "ncot")
    both = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}],
        chat_template=instruction_tuning.CHAT,
        tokenize=False,
    )
    assert both == "Question:\n1 + 1?\nAnswer reasoning:\n2<|end|>"
    assert both == prompt(tokenizer, "1 + 1?") + "2" + tokenizer.eos_token


def test_a_models_own_template_is_used(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = CHATML
    assert prompt(other, "Hello") == ("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")


def test_the_loss_is_on_the_response_alone(tokenizer, train):
    some = requests(train[:2], ("numbers", "program"))
    pairs = encode(tokenizer, some, 512)
    for (p, t), r in zip(pairs, some, strict=True):
        assert tokenizer.decode(p) == prompt(tokenizer, r.text)
        assert tokenizer.decode(t) == r.response + tokenizer.eos_token
    batch = sft.collate(pairs, tokenizer.eos_token_id)
    learnt = [row[row != sft.IGNORE].tolist() for row in batch.labels]
    assert learnt == [t for _, t in pairs]
    with pytest.raises(UserError, match="train-0/numbers"):
        encode(tokenizer, some, 20)


def adapted(new_model):
    return lora.add_adapter(new_model(context=1024), LoraSettings(rank=16, alpha=32))


def test_packed_training_is_padded_training(new_model, tokenizer, train):
    some = requests(train[:3], ("numbers", "first", "equation"))
    config = SftConfig(epochs=2, batch_size=4, lr=1e-3, lr_warmup_steps=1)
    runs = {}
    for width in (0, 400):
        policy = adapted(new_model)
        before = [p.clone() for n, p in policy.named_parameters() if ".lora_" not in n]
        runs[width] = list(tune(policy, tokenizer, some, config, seed=1, width=width))
        after = [p for n, p in policy.named_parameters() if ".lora_" not in n]
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert len(runs[0]) == 2 * 3
    for padded, packed in zip(runs[0], runs[400], strict=True):
        assert padded["tokens"] == packed["tokens"]
        assert padded["loss"] == pytest.approx(packed["loss"], rel=1e-4)
        assert padded["grad_norm"] == pytest.approx(packed["grad_norm"], rel=1e-3)


def test_one_batch_can_be_learnt_by_heart_and_is_then_right(new_model, tokenizer, examples):
    short = [replace(e, meta={"paths": [{"name": "steps", **steps(e)}]}) for e in examples[1:3]]
    some = requests(short, ("numbers", "first"))
    plain = new_model(context=512)
    plain.model.norm.weight.data *= 3  # else its frozen head cannot be sure of any token
    policy = lora.add_adapter(plain, LoraSettings(rank=16, alpha=32))
    config = SftConfig(epochs=40, batch_size=4, lr=1e-2, lr_warmup_steps=3)
    losses = [m["loss"] for m in tune(policy, tokenizer, some, config, width=300)]
    assert losses[-1] < 0.05 < losses[0]
    sampling = SampleConfig(max_new_tokens=24, batch_size=3)
    texts = answer(policy, tokenizer, some, sampling)
    assert texts == [r.response for r in some]  # in the order asked for, not sorted by length
    assert by_task(judge(texts, some), some) == {"numbers": 1.0, "first": 1.0}
    wrong = [texts[1], texts[0], *texts[2:]]
    assert by_task(judge(wrong, some), some) == {"numbers": 0.0, "first": 1.0}


def steps(e):
    """Write a conftest example's one sum as a path of single steps."""
    return {"ncot": e.ncot, "pcot": f"\n    return {e.ncot.split(' = ')[0]}"}
