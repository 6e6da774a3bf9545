"""Local models as judges and embedders: batches agree with single rows, labels with brute force."""

from __future__ import annotations

import pytest
import torch

from reft_lib import grader_models, models
from reft_lib.errors import UserError
from reft_lib.grader_models import local_embed, local_judge
from reft_lib.grader_run import Helpers
from reft_lib.graders import grade

TALKS = [
    [{"role": "user", "content": "Tom has 12 apples."}],
    [{"role": "system", "content": "Answer."}, {"role": "user", "content": "How many?"}],
    [{"role": "user", "content": "20 and 7 apples and 1 more, how many apples are there now?"}],
]
LABELS = ["apples", "have", "Tom buys 5 more", "Tom buys", "Tom"]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def brute_force(model, tokenizer, talk, labels):
    """Multiply what each token of a label has of the probability of all that may stand there."""
    prompt = "\n".join(f"{m['role']}: {m['content']}" for m in talk) + "\nassistant:"
    start = tokenizer(prompt)["input_ids"]
    eos = tokenizer.eos_token_id
    paths = [
        [*tokenizer(" " + label, add_special_tokens=False)["input_ids"], eos] for label in labels
    ]
    found = []
    for path in paths:
        probability = 1.0
        for t, token in enumerate(path):  # one pass for every token, and no padding
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([start + path[:t]])).logits[0, -1].double()
            weights = torch.softmax(logits, dim=-1)
            rivals = {other[t] for other in paths if other[:t] == path[:t] and len(other) > t}
            probability *= float(weights[token] / sum(weights[r] for r in rivals))
        found.append(probability)
    assert sum(found) == pytest.approx(1)  # a distribution over the labels
    return labels[found.index(max(found))]


def test_a_label_is_the_most_probable_answer(new_model, tokenizer):
    chosen = set()
    for seed in range(6):
        model = new_model(seed)
        said = local_judge(model, tokenizer, batch_size=2)(TALKS, LABELS, {})
        assert said == [brute_force(model, tokenizer, talk, LABELS) for talk in TALKS]
        chosen.update(said)
    assert len(chosen) > 1  # the models differ


def test_a_batch_answers_like_single_conversations(new_model, tokenizer):
    judge = local_judge(new_model(), tokenizer)
    sampling = {"max_completions_tokens": 6}
    together = judge(TALKS, None, sampling)
    assert together == [judge([talk], None, sampling)[0] for talk in TALKS]
    assert together == judge(TALKS, None, sampling)  # greedy
    first = judge(TALKS, None, {"max_completions_tokens": 1})
    assert first != together


def test_a_seed_decides_what_is_sampled(new_model, tokenizer):
    judge = local_judge(new_model(), tokenizer)

    def said(seed):
        sampling = {"temperature": 1.0, "seed": seed, "max_completions_tokens": 6}
        return judge(TALKS, None, sampling)

    assert said(1) == said(1) != said(2)


def test_a_conversation_that_does_not_fit_has_no_answer(new_model, tokenizer):
    long = [{"role": "user", "content": "apples and more " * 200}]
    judge = local_judge(new_model(), tokenizer)
    assert judge([TALKS[0], long], None, {"max_completions_tokens": 4})[1] is None
    assert judge([TALKS[0], long], LABELS, {})[1] is None
    assert judge([TALKS[0], long], LABELS, {})[0] in LABELS


def test_a_chat_template_is_used(new_model, tokenizer):
    import copy

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TEMPLATE
    talk = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Well?"}]
    ids = grader_models._encode(chatty, talk)
    assert chatty.decode(ids) == "<system>Be brief.<user>Well?<assistant>"
    assert tokenizer.decode(grader_models._encode(tokenizer, talk)) == (
        "developer: Be brief.\nuser: Well?\nassistant:"
    )


def test_an_embedding_is_the_mean_of_hidden_states(new_model, tokenizer):
    model = new_model()
    texts = ["Tom", "How many apples does Tom have now?", "20 and 7"]
    vectors = local_embed(model, tokenizer, batch_size=2)(texts)
    for text, vector in zip(texts, vectors, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(torch.tensor(vector), hidden.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_cosine_with_a_local_model(new_model, tokenizer):
    spec = {
        "type": "text_similarity",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
        "evaluation_metric": "cosine",
    }
    rows = [{"answer": "12 apples"}] * 3
    outputs = ["12 apples", "Tom buys more", "apples " * 500]  # the last outgrows the context
    results = grade(spec, rows, outputs, Helpers(embed=local_embed(new_model(), tokenizer)))
    assert results[0].score == pytest.approx(1.0, abs=1e-5)
    assert all(0 <= r.score < 1 and r.error is None for r in results[1:])


def test_a_local_model_judges_in_a_grader(new_model, tokenizer, monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return new_model(), tokenizer

    monkeypatch.setattr(models, "load", load)
    grader_models.load_judge.cache_clear()
    ask = [{"role": "user", "content": "Is {{ sample.output_text }} right?"}]
    spec = {
        "type": "label_model", "model": "small", "input": ask, "labels": LABELS,
        "passing_labels": LABELS,
    }  # fmt: skip
    assert [r.score for r in grade(spec, [{}] * 2, ["17", "18"])] == [1.0, 1.0]
    assert [r.score for r in grade(spec, [{}], ["19"], Helpers(judge="small"))] == [1.0]
    assert asked == ["small"]  # loaded once
    score = {"type": "score_model", "model": "small", "input": ask,
             "sampling_params": {"max_completions_tokens": 3}}  # fmt: skip
    (result,) = grade(score, [{}], ["17"])
    assert 0 <= result.score <= 1 and result.kind in (None, "model_grader_parse_error")
    grader_models.load_judge.cache_clear()


@pytest.mark.parametrize("name", ["gpt-4o", "o3-mini-2025-01-31", "text-embedding-3-large"])
def test_hosted_models_are_out_of_reach(name):
    for load in (grader_models.load_judge, grader_models.load_embed):
        with pytest.raises(UserError, match=f"{name} is a hosted model"):
            load(name)
