"""Single responses as PPO saw them: what is known of each of their tokens, as plain numbers.

A *sighting* is one response in one rollout batch; its numbers are those of the batch's
:class:`reft_lib.ppo.Experience` in a row of it. A *batch* is what rewards and advantages of a whole
rollout batch are made of. Both are recorded by :mod:`reft_lib.lens_record` into a run log, and read
back here; both can be made of a reader's own rollout (:func:`sight`, :func:`batch_of`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reft_lib import runlog
from reft_lib.errors import UserError

RECORD = Path(__file__).resolve().parents[1] / "data" / "runs" / "lens" / "pcot-seed0"
"""The recorded training in the repository."""
COMMAND = "python -m reft_lib record-lens"
"""What makes it."""
DIGITS = 5
"""Decimals that are kept."""
PER_TOKEN = (
    "logp", "ref_logp", "kl_rewards", "terminal", "values", "advantages", "whitened",
    "ratio_turn", "ratio_after",
)  # fmt: skip
"""The fields of a sighting that have a number for each token."""


@dataclass(frozen=True)
class Sighting:
    """One response in one rollout batch."""

    step: int
    """Of training, from 1; the policy that wrote it has taken one step less."""
    id: str
    """Of the question."""
    question: str
    answer: str
    """The gold answer."""
    given: str | None
    """The response's own answer."""
    score: float
    """The terminal reward."""
    tokens: list[str]
    """R tokens, each decoded alone, that of the end of sequence included."""
    logp: list[float]
    """Log-probabilities in nats under the policy that sampled."""
    ref_logp: list[float]
    """Log-probabilities in nats under the warm-up policy."""
    kl_rewards: list[float]
    terminal: list[float]
    values: list[float]
    advantages: list[float]
    """Before whitening."""
    whitened: list[float]
    """Whitened over the response tokens of the whole rollout batch."""
    ratio_turn: list[float] = field(default_factory=list)
    """Ratio when the response's own minibatch had its turn: what the loss saw."""
    ratio_after: list[float] = field(default_factory=list)
    """Ratio after all updates of the step."""
    clip: float = 0.2
    """Half-width of the band in which the ratio may move."""


@dataclass(frozen=True)
class WholeBatch:
    """What a rollout batch's rewards and advantages are made of; lists of B rows, unpadded."""

    logp: list[list[float]]
    ref_logp: list[list[float]]
    values: list[list[float]]
    scores: list[float]
    """Terminal reward of each response."""
    row: int
    """The response that is followed."""
    tokens: list[str]
    """Its tokens."""
    step: int = 0
    """Of training; 0 where that is not known."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a batch."""
        lengths = [[len(row) for row in rows] for rows in (self.logp, self.ref_logp, self.values)]
        if not self.scores or not self.tokens:
            raise UserError("empty rollout: no response, or no token in the one to follow")
        whole = len(self.scores) == len(self.logp) and lengths[0] == lengths[1] == lengths[2]
        if not whole or not 0 <= self.row < len(self.logp):
            raise UserError("a batch's rows must be as many, and as long, in each of its lists")
        if lengths[0][self.row] != len(self.tokens):
            raise UserError(f"row {self.row} has {lengths[0][self.row]} numbers for its tokens")

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return logp, ref_logp, values (B, R), mask (bool, B, R) and scores (B,)."""
        width = max(map(len, self.logp))
        mask = torch.tensor([[t < len(row) for t in range(width)] for row in self.logp])
        logp, ref, values = (
            torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
            for rows in (self.logp, self.ref_logp, self.values)
        )
        return logp, ref, values, mask, torch.tensor(self.scores)


@dataclass(frozen=True)
class Record:
    """What a record holds."""

    sightings: list[Sighting]
    batch: WholeBatch | None
    card: dict[str, Any]
    damaged: list[str] = field(default_factory=list)
    """A sentence for each line that could not be read."""


def sight(
    experience: Any,
    row: int,
    tokenizer: Any,
    example: Any,
    config: Any,
    step: int = 0,
    turn: Tensor | None = None,
    after: Tensor | None = None,
) -> Sighting:
    """Return one response of a rollout batch with all that PPO knows of it.

    Parameters
    ----------
    experience : reft_lib.ppo.Experience
    row : int
        Of the response.
    tokenizer : tokenizer
    example : Example
        The question of that row.
    config : PpoConfig
        Its ``clip``.
    step : int
        Of training, from 1; 0 where there is none.
    turn, after : Tensor (B, R), optional
        Log-probabilities at the response's own turn, and after all updates.

    Raises
    ------
    UserError
        If there is no such row, or it has no token.
    """
    mask = experience.rollout.response_mask
    n = int(mask[row].sum()) if 0 <= row < len(mask) else 0
    if n == 0:
        raise UserError(f"empty rollout: no response token in row {row} of {len(mask)}")

    def numbers(x: Tensor) -> list[float]:
        return [round(float(v), DIGITS) + 0.0 for v in x[row, :n]]

    old, graded = experience.old_logp, experience.graded[row]
    terminal = torch.zeros_like(old)
    terminal[row, n - 1] = graded.reward
    ratios = {
        name: numbers((now - old).exp())
        for name, now in (("ratio_turn", turn), ("ratio_after", after))
        if now is not None
    }
    return Sighting(
        step=step,
        id=example.id,
        question=example.question,
        answer=example.answer,
        given=graded.answer,
        score=graded.reward,
        tokens=[tokenizer.decode(t) for t in experience.rollout.responses[row, :n].tolist()],
        logp=numbers(old),
        ref_logp=numbers(experience.ref_logp),
        kl_rewards=numbers(experience.rewards - terminal),
        terminal=numbers(terminal),
        values=numbers(experience.old_values),
        advantages=numbers(experience.raw_advantages),
        whitened=numbers(experience.advantages),
        clip=config.clip,
        **ratios,
    )


def batch_of(experience: Any, row: int, tokenizer: Any, step: int = 0) -> WholeBatch:
    """Return what a rollout batch's advantages are made of; ``row`` is the response to follow."""
    roll = experience.rollout
    lengths = roll.lengths.tolist()

    def rows(x: Tensor) -> list[list[float]]:
        pairs = zip(x.tolist(), lengths, strict=True)
        return [[round(v, DIGITS) + 0.0 for v in values[:n]] for values, n in pairs]

    ids = roll.responses[row, : lengths[row]].tolist() if 0 <= row < len(lengths) else []
    return WholeBatch(
        logp=rows(experience.old_logp),
        ref_logp=rows(experience.ref_logp),
        values=rows(experience.old_values),
        scores=[g.reward for g in experience.graded],
        row=row,
        tokens=[tokenizer.decode(t) for t in ids],
        step=step,
    )


def read(folder: str | Path | None = None) -> Record:
    """Read a record; a damaged line is left out and named.

    Parameters
    ----------
    folder : path, optional
        Of the record; :data:`RECORD` unless given.

    Raises
    ------
    UserError
        If there is no record, or none of its lines holds a response.
    """
    folder = Path(RECORD if folder is None else folder)
    name = "/".join(folder.parts[-2:])
    if not (folder / runlog.CARD).exists():
        raise UserError(f"{name} has not been recorded; {COMMAND} records it")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows: list[Any] = runlog.read_metrics(folder).to_dict("records")
    damaged = [f"{name}/{Path(str(w.message).split(': ')[0]).name}" for w in caught]
    found: dict[str, list[Any]] = {"lens": [], "batch": []}
    for number, row in enumerate(rows, start=1):
        if row.get("split") not in found:
            continue
        try:
            found[row["split"]].append(_parsed(row))
        except (KeyError, TypeError, ValueError, UserError):
            damaged.append(f"{name}/{runlog.METRICS}, a line of step {row.get('step', number)}")
    if not found["lens"]:
        raise UserError(f"{name}: no response is recorded here; {COMMAND} records some")
    batch = found["batch"][0] if found["batch"] else None
    return Record(found["lens"], batch, runlog.read_card(folder), damaged)


def _parsed(row: Mapping[str, Any]) -> Sighting | WholeBatch:
    """Return a line as what it is."""
    kind: Any = Sighting if row["split"] == "lens" else WholeBatch
    values = {f.name: row[f.name] for f in fields(kind) if f.name in row}
    values["step"] = int(values["step"])
    if kind is WholeBatch:
        return WholeBatch(**values | {"row": int(values["row"])})
    values["given"] = values["given"] if isinstance(values["given"], str) else None
    for name in ("ratio_turn", "ratio_after"):
        if not isinstance(values.get(name), list):
            values[name] = []
    check([made := Sighting(**values)])
    return made


def check(sightings: Sequence[Sighting]) -> None:
    """Raise :class:`UserError` if a sighting has no token, or not a number for each."""
    if not sightings:
        raise UserError("empty rollout: no response to look at")
    for s in sightings:
        if not s.tokens:
            raise UserError(f"empty rollout: step {s.step} of {s.id} has no token")
        for name in PER_TOKEN:
            values = getattr(s, name)
            if len(values) != len(s.tokens) and (values or not name.startswith("ratio")):
                raise UserError(
                    f"step {s.step} of {s.id}: {len(values)} {name} for {len(s.tokens)} tokens"
                )


def line(what: Sighting | WholeBatch) -> dict[str, Any]:
    """Return what a run log keeps of a sighting or a batch, without its step."""
    kept = asdict(what)
    del kept["step"]
    return kept
