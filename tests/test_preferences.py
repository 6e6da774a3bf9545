"""The simulated rater: what it values, how often it errs, and which pairs it is shown."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import random

import pytest

from reft_lib import evaluate, preferences, samples
from reft_lib.config import SampleConfig
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.method_settings_rlhf import DpoConfig, PreferenceConfig, RaterConfig, RewardConfig
from reft_lib.preferences import GoldReward, Pair
from reft_lib.rewards import AnswerReward

END = "\nTherefore, the answer is: "
RATER = RaterConfig(right=2.0, sound=1.0, brevity=0.5, temperature=0.5)
CASES = [  # text, right, sound
    (f"12 + 5 = 17.{END}17", True, True),
    (f"12 + 5 = 18.{END}17", True, False),  # right by luck
    (f"12 + 5 = 17.{END}18", False, True),  # a slip at the end
    (f"12 + 5 = 18.{END}18", False, False),
    ("no idea", False, False),
    ("", False, False),
]


def asked(n):
    """Make n questions with ids of their own."""
    return [Example(f"q-{i}", f"How many are {i} and 7?", str(i + 7)) for i in range(n)]


def answers_to(examples, k=4):
    """Give each question k different responses, the first of which is right."""
    return [
        [f"{i} + 7 = {i + 7 + j}.{END}{i + 7 + j}" for j in range(k)] for i in range(len(examples))
    ]


@pytest.mark.parametrize(("text", "right", "sound"), CASES)
def test_the_gold_score_by_hand(examples, text, right, sound):
    (graded,) = GoldReward("ncot", RATER)([text], examples[:1])
    assert graded.reward == pytest.approx(2 * right + 1 * sound - 0.5 * len(text) / 100)
    assert graded.correct == right


def test_the_verdicts_are_those_of_the_plain_reward(examples):
    texts = [text for text, *_ in CASES]
    plain = AnswerReward("ncot")(texts, examples[:1] * len(texts))
    gold = GoldReward("ncot", RATER)(texts, examples[:1] * len(texts))
    assert [(g.answer, g.correct) for g in gold] == [(g.answer, g.correct) for g in plain]


def test_a_program_is_sound_where_it_is_right(examples):
    texts = ["\n    return 12 + 5", "\n    return 12"]
    found = [g.reward for g in GoldReward("pcot", RATER)(texts, examples[:1] * 2)]
    assert found == pytest.approx([3 - 0.5 * 0.21, -0.5 * 0.16], abs=0.03)
    assert found[0] == 3 - 0.5 * len(texts[0]) / 100 and found[1] == -0.5 * len(texts[1]) / 100


def test_soundness_of_a_choice_is_asked_of_the_options_value():
    e = Example("c", "How many are 12 and 5?\n(a) 16 (b) 17", "b", meta={"value": "17"})
    graded = GoldReward("ncot", RATER)([f"12 + 5 = 17.{END}b", f"12 + 5 = 16.{END}b"], [e, e])
    assert [g.correct for g in graded] == [True, True]
    assert graded[0].reward - graded[1].reward == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("a", "b", "temperature", "flip", "expected"),
    [
        (1.0, 1.0, 0.5, 0.0, 0.5),
        (math.log(3), 0.0, 1.0, 0.0, 0.75),  # odds 3 to 1
        (0.0, math.log(3), 1.0, 0.0, 0.25),
        (2 * math.log(9), 0.0, 2.0, 0.0, 0.9),
        (math.log(3), 0.0, 1.0, 0.1, 0.75 * 0.9 + 0.25 * 0.1),
        (5.0, 4.9, 0.0, 0.0, 1.0),
        (4.9, 5.0, 0.0, 0.0, 0.0),
        (5.0, 5.0, 0.0, 0.2, 0.5),
        (5.0, 4.9, 0.0, 0.2, 0.8),
        (5.0, 4.9, 1e-9, 0.0, 1.0),  # no overflow
        (-5.0, 4.9, 1e-300, 0.0, 0.0),
        (3.0, 0.0, 1.0, 0.5, 0.5),
    ],
)
def test_probabilities_by_hand(a, b, temperature, flip, expected):
    rater = RaterConfig(temperature=temperature, flip=flip)
    assert preferences.probability(a, b, rater) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("flip", [0.0, 0.15])
def test_choices_are_as_frequent_as_bradley_and_terry_say(flip):
    """Every pair of four responses, 1500 times; strengths are exp(gold / temperature)."""
    rater = RaterConfig(right=1.0, sound=0.4, brevity=0.9, temperature=0.7, flip=flip)
    texts = [text for text, *_ in CASES[:4]]
    texts[3] += " and so on" * 3
    n = 1500
    rows = [Example(f"q-{i}", "How many are 12 and 5?", "17") for i in range(n)]
    config = PreferenceConfig(per_question=6, rater=rater)
    pairs = preferences.make_pairs([texts] * n, rows, "ncot", config, seed=3)
    assert len(pairs) == 6 * n
    wins = collections.Counter((p.chosen, p.rejected) for p in pairs)
    golds = [1.4, 1.0, 0.4, 0.0]
    strength = {
        t: math.exp((g - 0.9 * len(t) / 100) / 0.7) for t, g in zip(texts, golds, strict=True)
    }
    for a, b in itertools.combinations(texts, 2):
        p = strength[a] / (strength[a] + strength[b])
        p = p * (1 - flip) + (1 - p) * flip
        assert wins[a, b] + wins[b, a] == n
        assert wins[a, b] / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))


def test_without_noise_the_better_one_wins_whatever_the_seed():
    rows = asked(20)
    config = PreferenceConfig(per_question=6, rater=RaterConfig(temperature=0.0))
    gold = GoldReward("ncot", config.rater)
    found = [
        preferences.make_pairs(answers_to(rows), rows, "ncot", config, seed) for seed in range(5)
    ]
    clear = []
    for pairs in found:
        scores = [gold([p.chosen, p.rejected], [p.example] * 2) for p in pairs]
        assert all(a.reward >= b.reward for a, b in scores)
        choices = zip(pairs, scores, strict=True)
        clear.append({(p.example.id, *p[1:]) for p, (a, b) in choices if a.reward > b.reward})
        assert len(clear[-1]) > 50
    assert all(some == clear[0] for some in clear)


def test_pairs_are_of_different_texts_a_bounded_number_each_drawn_once():
    rows = asked(30)
    texts = [group * 2 for group in answers_to(rows)]  # everything twice
    texts[3], texts[4] = ["same"] * 5, []
    pairs = preferences.make_pairs(texts, rows, "ncot", PreferenceConfig(per_question=4), seed=1)
    per = collections.Counter(p.example.id for p in pairs)
    assert set(per) == {e.id for e in rows} - {"q-3", "q-4"} and set(per.values()) == {4}
    shown = [(p.example.id, frozenset((p.chosen, p.rejected))) for p in pairs]
    assert len(set(shown)) == len(shown) and all(len(two) == 2 for _, two in shown)
    for p in pairs:
        assert {p.chosen, p.rejected} <= set(texts[int(p.example.id[2:])])
    every = preferences.make_pairs(texts, rows, "ncot", PreferenceConfig(per_question=99))
    assert len(every) == 28 * 6
    ids = [p.example.id for p in every]
    assert ids == sorted(ids, key=lambda x: int(x[2:]))


def test_the_seed_decides_and_other_questions_do_not():
    rows = asked(12)
    config = PreferenceConfig(per_question=2, rater=RaterConfig(temperature=2.0))

    def make(rows, seed):
        texts = [answers_to(asked(12))[int(e.id[2:])] for e in rows]
        return preferences.make_pairs(texts, rows, "ncot", config, seed)

    random.seed(1)
    first = make(rows, 5)
    random.seed(2)
    assert make(rows, 5) == first != make(rows, 6)
    assert make(rows[3:5], 5) == [p for p in first if p.example.id in ("q-3", "q-4")]


def test_another_noise_meets_the_same_pairs_and_dice():
    rows = asked(50)
    found = {}
    for temperature in (0.0, 0.3, 3.0):
        config = PreferenceConfig(per_question=3, rater=RaterConfig(temperature=temperature))
        found[temperature] = preferences.make_pairs(answers_to(rows), rows, "ncot", config)
    shown = [[{p.chosen, p.rejected} for p in pairs] for pairs in found.values()]
    assert shown[0] == shown[1] == shown[2]
    calm, wild = (
        sum(p != q for p, q in zip(found[0.0], found[t], strict=True)) for t in (0.3, 3.0)
    )
    assert calm < wild


def test_a_rater_may_see_no_difference():
    """Pairs that are too close are left out, and the others fall as they would have."""
    rows = asked(30)
    every, clear = (
        preferences.make_pairs(
            answers_to(rows), rows, "ncot",
            PreferenceConfig(per_question=6, rater=RaterConfig(temperature=2.0, undecided=u)),
        )
        for u in (0.0, 1.0)
    )  # fmt: skip
    gold = GoldReward("ncot")

    def gap(p):
        a, b = gold([p.chosen, p.rejected], [p.example] * 2)
        return abs(a.reward - b.reward)

    assert clear == [p for p in every if gap(p) >= 1.0]
    assert 0 < len(clear) < len(every)


def test_responses_are_sampled_at_the_temperature_asked_for(new_model, tokenizer, examples):
    sampling = SampleConfig(max_new_tokens=6, batch_size=6)
    config = PreferenceConfig(samples=3)

    def draw(temperature, seed=0):
        asked_for = dataclasses.replace(config, temperature=temperature)
        return preferences.sample(
            new_model(), tokenizer, examples, "ncot", asked_for, sampling, seed
        )

    texts = draw(1.0)
    assert [len(group) for group in texts] == [3] * 4 and draw(1.0) == texts != draw(1.0, 1)
    greedy = evaluate.answer(new_model(), tokenizer, examples, "ncot", sampling).texts
    assert draw(1e-4) == [group * 3 for group in greedy]


def test_questions_are_split_whole():
    rows = asked(20)
    pairs = preferences.make_pairs(answers_to(rows), rows, "ncot", PreferenceConfig())
    training, held = samples.split(pairs, 0.2, seed=3)
    assert len({p.example.id for p in held}) == 4 and len(held) == 16
    assert not {p.example.id for p in held} & {p.example.id for p in training}
    assert sorted(training + held, key=pairs.index) == pairs


def test_nothing_to_choose_from_is_one_line():
    with pytest.raises(UserError, match="no question has two different responses") as error:
        preferences.make_pairs([["a", "a"], []], asked(2), "ncot", PreferenceConfig())
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError):
        preferences.make_pairs([["a", "b"]], asked(2), "ncot", PreferenceConfig())
    with pytest.raises(UserError, match="there is no pair"):
        preferences.ceiling([], "ncot", RATER)


def test_the_ceiling_by_hand(examples):
    """One pair chosen rightly, one wrongly; both had odds of 3 to 1."""
    e = examples[0]
    rater = RaterConfig(right=math.log(3), sound=0.0, brevity=0.0, temperature=1.0)
    right, wrong = f"12 + 5 = 17.{END}17", f"12 + 5 = 18.{END}18"
    found = preferences.ceiling([Pair(e, right, wrong), Pair(e, wrong, right)], "ncot", rater)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found == pytest.approx({"agreement": 0.5, "accuracy": 0.75, "loss": entropy})
    sure = dataclasses.replace(rater, temperature=0.0)
    found = preferences.ceiling([Pair(e, right, wrong)], "ncot", sure)
    assert found == {"agreement": 1.0, "accuracy": 1.0, "loss": 0.0}
    found = preferences.ceiling([Pair(e, wrong + ".", wrong)], "ncot", sure)  # both worth nothing
    assert found == pytest.approx({"agreement": 0.5, "accuracy": 0.5, "loss": math.log(2)})


def test_calibration_by_hand():
    """Two bins: [0.5, 0.75) and [0.75, 1]."""
    found = preferences.calibration([0.6, 0.3, 0.7, 0.5, 0.9, 0.1, 1.0, 0.75], bins=2)
    # favoured by 0.6 0.7 0.7 0.5, chosen: yes no yes half; by 0.9 0.9 1.0 0.75: yes no yes yes
    assert found.n == [4, 4]
    assert found.predicted == pytest.approx([2.5 / 4, 3.55 / 4])
    assert found.observed == pytest.approx([2.5 / 4, 3 / 4])
    assert found.error == pytest.approx(0.5 * 0.55 / 4)


def test_empty_bins_are_left_out_and_the_last_bin_has_its_upper_bound():
    found = preferences.calibration([1.0, 0.0, 1.0, 0.51], bins=10)
    assert (found.n, found.predicted[1]) == ([1, 3], 1.0)
    assert found.observed == pytest.approx([1.0, 2 / 3])
    assert found.error == pytest.approx((0.49 + 3 * (1 / 3)) / 4)


def test_a_judge_who_knows_the_odds_is_calibrated():
    dice, p = random.Random(0), []
    for _ in range(20_000):
        q = dice.random()
        p.append(q if dice.random() < q else 1 - q)
    assert preferences.calibration(p).error < 0.015
    louder = [x**3 / (x**3 + (1 - x) ** 3) for x in p]  # three times the logit
    assert preferences.calibration(louder).error > 0.08


@pytest.mark.parametrize(("p", "bins"), [([], 10), ([0.5], 0), ([1.2], 5), ([math.nan], 5)])
def test_calibration_of_nothing_is_refused(p, bins):
    with pytest.raises(UserError, match="^calibration: "):
        preferences.calibration(p, bins)


def test_a_watched_reward_trains_on_the_proxy_and_shows_both(examples):
    def proxy(responses, rows):
        return [dataclasses.replace(g, reward=7.0) for g in AnswerReward("ncot")(responses, rows)]

    texts = [CASES[0][0], CASES[4][0]]
    watched = preferences.Watched(proxy, GoldReward("ncot", RATER))
    assert watched(texts, examples[:1] * 2) == proxy(texts, examples[:1] * 2)
    gold = (3 - 0.005 * len(texts[0]) - 0.005 * len(texts[1])) / 2
    assert watched.seen == pytest.approx({"proxy": 7.0, "gold": gold})


@pytest.mark.parametrize(
    ("part", "name", "figure", "match"),
    [
        (RaterConfig, "temperature", -1.0, "temperature is -1.0; .* at least 0"),
        (RaterConfig, "right", math.nan, "right is nan; .* at least 0"),
        (RaterConfig, "flip", 0.6, "flip is 0.6; it must be at most 0.5"),
        (PreferenceConfig, "samples", 1, "samples is 1; it must be at least 2"),
        (PreferenceConfig, "per_question", 0, "per_question is 0; .* above 0"),
        (RewardConfig, "held_out", 0.0, "held_out is 0.0; .* above 0"),
        (DpoConfig, "beta", 0.0, "beta is 0; DPO needs one above 0"),
        (DpoConfig, "epochs", 0, "epochs is 0; .* above 0"),
    ],
)
def test_a_number_that_cannot_be_used_is_named(part, name, figure, match):
    with pytest.raises(UserError, match=match):
        part(**{name: figure})
    assert part() == part()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(part(), name, figure)


def test_a_rater_may_ignore_anything():
    assert RaterConfig(0.0, 0.0, 0.0, 0.0, 0.0).flip == 0.0
