"""Make the small encoder from nothing, by masked language modelling, as BERT was made.

As there (Devlin et al. 2019, appendix A.2), most steps are on short rows, which are cheap, and the
last ones on long rows, so that all positions are learnt. For the first few hundred steps nothing
seems to happen: the encoder learns how frequent each token is, and predicts just that, wherever the
mask stands. Only then does attention find out which neighbours tell what was hidden.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import masked, models, pretrain
from reft_lib.encoder import EncoderConfig, new_encoder, with_mask
from reft_lib.language_modelling import TextConfig

SHORT = TextConfig(steps=2000, window=32, batch_size=64, lr=3e-3, lr_warmup_steps=100)
LONG = TextConfig(steps=1000, window=128, batch_size=16, lr=1e-3, lr_warmup_steps=20)
STAGES = (SHORT, LONG)
"""The two stages; a step of either reads as many tokens."""
SEED = 7
"""Nano's: the encoder reads text of the same kind, the beginning of what nano has read."""
HELD_OUT = 64
"""Windows of text never read, by which the encoder is measured."""


def pretrain_encoder(
    folder: Path,
    stages: tuple[TextConfig, ...] = STAGES,
    config: EncoderConfig | None = None,
    tokenizer: Any = None,
) -> Path:
    """Pretrain an encoder and write it and its card.

    Parameters
    ----------
    folder : Path
    stages : TextConfig, ...
        One after the other; each has its own rows, and its optimiser begins anew.
    config : EncoderConfig, optional
        Its shape.
    tokenizer : tokenizer, optional
        Nano's, unless given; a mask is added to a copy.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UserError
        If the folder cannot be written.
    NumericalError
        If the loss stops being finite.
    """
    pretrain.make_folder(folder)
    if tokenizer is None:
        _, tokenizer = models.load("nano")
    tokenizer, config = with_mask(tokenizer), config or EncoderConfig()
    model, began = new_encoder(tokenizer, config, SEED), time.process_time()
    curve, step = list[list[float]](), 0
    bar = tqdm(total=sum(stage.steps for stage in stages), desc="pretrain-encoder", mininterval=1)
    for stage in stages:
        size = stage.steps * stage.batch_size * stage.window
        rows = pretrain.token_stream(tokenizer, SEED, size).view(-1, stage.window).tolist()
        for metrics in masked.train(model, tokenizer, rows, stage, SEED, models.has_fast_bf16()):
            if step % 50 == 0:
                curve.append([step, round(metrics["loss"], 4)])
                bar.set_postfix(loss=f"{metrics['loss']:.3f}")
            step += 1
            bar.update()
    bar.close()
    model.save_pretrained(folder)
    width = stages[-1].window
    unread = pretrain.token_stream(tokenizer, SEED + 1, HELD_OUT * width).view(-1, width).tolist()
    found = masked.measure(model, tokenizer, unread)
    minutes = (time.process_time() - began) / 60
    measured = {
        "loss_curve": curve,
        "held_out_loss": round(math.log(found["perplexity"]), 4),
        "held_out_accuracy": round(found["accuracy"], 4),
    }
    write_card(folder, config, stages, model, measured, minutes)
    return folder


def write_card(
    folder: Path,
    config: EncoderConfig,
    stages: tuple[TextConfig, ...],
    model: Any,
    measured: dict[str, Any],
    minutes: float,
) -> None:
    """Write ``card.json``: how the encoder was made, what was measured, the hash of its weights."""
    import transformers

    weights = (folder / "model.safetensors").read_bytes()
    card = {
        "name": "encoder",
        "what": "BertForMaskedLM pretrained from nothing on the small web of reft_lib.corpus",
        "made_by": "python -m reft_lib pretrain-encoder",
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": {**asdict(config), "vocab": model.config.vocab_size},
        "stages": [asdict(stage) for stage in stages],
        "seed": SEED,
        **measured,
        "processor_minutes": round(minutes, 1),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sha256": {"model.safetensors": hashlib.sha256(weights).hexdigest()},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
