"""The texts of both formats, and that training and sampling see the same ids."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from reft_lib.answers import extract
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.prompts import (
    TRIGGER,
    check_length,
    encode_pair,
    encode_prompts,
    program,
    prompt,
    target,
)

EXAMPLE = Example("row3", "How many?", "18", ncot="9 + 9 = 18", pcot="\n    return 9 + 9")


def make_tokenizer(template: str | None = None) -> Any:
    """Make a byte-level BPE that merges much of the prompts, optionally with a template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    texts = [prompt(EXAMPLE, "ncot") + target(EXAMPLE, "ncot")] * 5
    texts += [prompt(EXAMPLE, "pcot") + target(EXAMPLE, "pcot")] * 5
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    if template:
        special = [(name, core.token_to_id(name)) for name in ("<s>", "</s>")]
        core.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


TOKENIZER = make_tokenizer()


def test_prompts_are_those_of_the_paper() -> None:
    words = "Question:\nHow many?\nAnswer reasoning:\n"
    assert prompt(EXAMPLE, "ncot") == prompt("How many?", "ncot") == words
    assert prompt(EXAMPLE, "pcot") == words + "def solution():"


def test_targets_are_those_of_the_paper() -> None:
    assert target(EXAMPLE, "ncot") == "9 + 9 = 18\nTherefore, the answer is: 18"
    assert target(EXAMPLE, "pcot") == "\n    return 9 + 9"
    assert TRIGGER == "\nTherefore, the answer is: "


@pytest.mark.parametrize("fmt", ["ncot", "pcot"])
def test_the_answer_of_a_target_is_the_gold_answer(fmt: Any) -> None:
    assert extract(target(EXAMPLE, fmt), fmt) == EXAMPLE.answer


def test_program_puts_the_head_back() -> None:
    assert program("\n    return 5") == "def solution():\n    return 5"
    assert program(target(EXAMPLE, "pcot"), "pcot") in prompt(EXAMPLE, "pcot") + target(
        EXAMPLE, "pcot"
    )
    with pytest.raises(UserError, match="no program"):
        program("18", "ncot")


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="question of row9 is empty"):
        prompt(Example("row9", " \n", "5"), "ncot")
    with pytest.raises(UserError, match="question is empty"):
        prompt("", "ncot")
    with pytest.raises(UserError, match="unknown format 'words'"):
        prompt("q", "words")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="row9 has no ncot"):
        target(Example("row9", "q", "5"), "ncot")


@pytest.mark.parametrize("fmt", ["ncot", "pcot"])
def test_training_and_sampling_see_the_same_prompt_ids(fmt: Any) -> None:
    text, answer = prompt(EXAMPLE, fmt), target(EXAMPLE, fmt)
    prompt_ids, target_ids = encode_pair(TOKENIZER, text, answer)
    assert prompt_ids == encode_prompts(TOKENIZER, [text])[0]
    assert TOKENIZER.decode(prompt_ids) == text
    assert TOKENIZER.decode(target_ids) == answer + "</s>"


def test_joining_texts_would_have_changed_the_seam() -> None:
    # the reason for tokenising apart: this tokenizer merges across the seam
    text, answer = prompt(EXAMPLE, "pcot"), target(EXAMPLE, "pcot")
    prompt_ids, target_ids = encode_pair(TOKENIZER, text, answer)
    joined = TOKENIZER(text + answer)["input_ids"]
    assert joined != [*prompt_ids, *target_ids[:-1]]


def test_target_ends_with_exactly_one_end_token() -> None:
    for template in (None, "<s> $A", "<s> $A </s>"):
        tokenizer = make_tokenizer(template)
        prompt_ids, target_ids = encode_pair(tokenizer, "Question:", "18")
        eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        assert target_ids[-1] == eos and target_ids.count(eos) == 1
        assert eos not in prompt_ids and bos not in target_ids
        assert (prompt_ids[0] == bos) == (template is not None)


def test_an_empty_target_is_the_end_token_alone() -> None:
    assert encode_pair(TOKENIZER, "Question:", "")[1] == [TOKENIZER.eos_token_id]


def test_prompts_are_encoded_one_by_one_without_padding() -> None:
    texts = ["Question:\na", "Question:\na longer one"]
    ids = encode_prompts(TOKENIZER, texts)
    assert ids == [encode_prompts(TOKENIZER, [text])[0] for text in texts]
    assert len(ids[0]) < len(ids[1])
    assert encode_prompts(TOKENIZER, []) == []


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        encode_pair(tokenizer, "q", "a")


def test_length_is_checked_and_the_row_named() -> None:
    check_length([1, 2, 3], 3, "row9")
    with pytest.raises(UserError, match="row9 has 4 tokens, more than the 3"):
        check_length([1, 2, 3, 4], 3, "row9")
    with pytest.raises(UserError, match="row9 has no tokens"):
        check_length([], 3, "row9")
