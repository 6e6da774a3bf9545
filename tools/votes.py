"""Sample again what a recorded comparison voted on, and keep the samples for the voting explorer.

    python tools/votes.py ADAPTERS pcot --verifier      writes data/runs/nano-votes/pcot-seed0
    python tools/votes.py ADAPTERS ncot

ADAPTERS is the folder that `python -m reft_lib compare --preset nano --adapters ADAPTERS` filled.
With --verifier the verifier is trained again, too, as `compare --preset nano-baselines` does. What
comes out must be what data/runs/nano-baselines has for the same seed, verdict by verdict; where it
is not, it stops.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the library need not be installed

from reft_lib import (  # noqa: E402
    adapter_files,
    bench,
    evaluate,
    lora,
    models,
    runlog,
    samples,
    verifier,
)
from reft_lib.config import RunConfig, preset  # noqa: E402
from reft_lib.errors import UserError  # noqa: E402
from reft_lib.unit import load_splits  # noqa: E402
from reft_lib.unit import verdicts as judged  # noqa: E402

POLICIES = {"sft": ("sft",), "reft": ("warmup", "reft")}
"""Method, and the adapters that make its policy, each merged before the next."""
RUNS = ROOT / "data" / "runs"


def policy(config: RunConfig, folder: Path, stages: tuple[str, ...]) -> tuple[Any, Any]:
    """Return the base model with saved adapters merged into it, and its tokenizer."""
    model, tokenizer = models.load(config.model, dtype=config.weights)
    for stage in stages:
        saved = folder / f"{config.fmt}-seed{config.seed}-{stage}"
        model = lora.merge(adapter_files.load_adapter(model, saved))
    return model, tokenizer


def trained_verifier(config: RunConfig, folder: Path, train: list[Any]) -> verifier.Verifier:
    """Train the verifier as reft_lib.phases does: on samples of the warm-up policy."""
    fresh = lora.add_adapter(policy(config, folder, ("warmup",))[0], config.lora, config.seed)
    model, tokenizer = policy(config, folder, ("warmup",))
    said = evaluate.answer(
        model, tokenizer, train, config.fmt, config.sample, votes=config.verifier.samples,
        seed=config.seed,
    )  # fmt: skip
    bf16 = config.bf16 and models.has_fast_bf16(models.pick_device("auto"))
    return verifier.train(
        fresh, tokenizer, samples.distinct(said, train), config.fmt, config.verifier, config.lora,
        config.seed, bf16,
    )  # fmt: skip


def record(config: RunConfig, folder: Path, rank: bool, out: Path) -> None:
    """Sample, compare with the recorded verdicts, and write a run log."""
    splits, votes = load_splits(config), config.sample.votes
    asked = splits["test"][: config.n_voted or None]
    name = f"{config.fmt}-seed{config.seed}"
    rows = runlog.read_metrics(RUNS / "nano-baselines" / name)
    rows = rows[rows["split"] == "test"]
    known = dict(
        zip(zip(rows["method"], rows["decoding"], strict=True), rows["verdicts"], strict=True)
    )
    judge = trained_verifier(config, folder, splits["train"]) if rank else None
    card = {"method": "samples", "preset": config.name, "fmt": config.fmt, "seed": config.seed}
    with runlog.RunLog(out / name, {**card, "config": config}) as log:
        for method, stages in POLICIES.items():
            model, tokenizer = policy(config, folder, stages)
            said = evaluate.answer(
                model, tokenizer, asked, config.fmt, config.sample, votes=votes, seed=config.seed
            )
            found, row = {f"vote{votes}": said}, judged(said)
            row |= {"answers": said.answers}
            row |= {"right": ["".join("01"[r] for r in group) for group in said.right]}
            if judge is not None:
                scores = verifier.score(judge, asked, said.texts)
                row["scores"] = [[round(s, 5) for s in group] for group in scores]
                found[f"rerank{votes}"] = evaluate.rerank(said, row["scores"])
                found[f"wvote{votes}"] = evaluate.weighted_vote(said, row["scores"])
            for decoding, result in found.items():
                if judged(result)["verdicts"] != known[method, decoding]:
                    raise UserError(f"{name}, {method}, {decoding}: not as recorded")
            log.log(step=0, split="test", method=method, decoding=f"vote{votes}", **row)
        log.finish()


def main() -> int:
    """Run the command; an error is one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("adapters", type=Path)
    parser.add_argument("formats", nargs="+", choices=("pcot", "ncot"))
    parser.add_argument("--verifier", action="store_true", help="score the samples, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RUNS / "nano-votes")
    given = parser.parse_args()
    try:
        with bench.one_thread():
            for fmt in given.formats:
                config = preset("nano-baselines", seed=given.seed, fmt=fmt)
                record(config, given.adapters, given.verifier, given.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
