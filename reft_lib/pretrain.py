"""Make the nano base model from nothing: tokenizer, pretraining text, training, card.

A plain next-token loop (autoregressive language modelling) on the small web of
:mod:`reft_lib.corpus`. Everything follows from one seed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import corpus, models, problems
from reft_lib.config import PretrainConfig
from reft_lib.errors import NumericalError, UserError

END = "<|end|>"
WORD_PATTERN = r" ?[A-Za-z_]+| ?\d|\n *| ?[^\sA-Za-z_\d]| +"
"""How text is cut before byte-pair merging: words, single digits, line breaks with indentation."""


def train_tokenizer(texts: list[str], vocab: int) -> Any:
    """Train a byte-level BPE tokenizer; every text comes back from it unchanged.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        Its end-of-sequence token, which also pads, is ``END``.
    """
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=5,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def token_stream(tokenizer: Any, seed: int, n_tokens: int) -> torch.Tensor:
    """Return the first ``n_tokens`` token ids of the pretraining text, shape (n_tokens,)."""
    chunks, total = [], 0
    source = corpus.documents(seed)
    while total < n_tokens:
        texts = list(itertools.islice(source, 4000))
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            chunks.append(torch.tensor([*ids, tokenizer.eos_token_id], dtype=torch.int32))
            total += len(ids) + 1
    return torch.cat(chunks)[:n_tokens].long()


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine down to a tenth."""
    rise = min(1.0, (step + 1) / 100)
    fall = 0.55 + 0.45 * math.cos(math.pi * step / config.steps)
    return config.lr * rise * fall


def new_model(config: PretrainConfig, vocab: int, eos: int) -> Any:
    """Return a freshly initialised ``LlamaForCausalLM`` of the nano shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=config.hidden,
            intermediate_size=config.mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def pretrain(folder: Path, config: PretrainConfig | None = None, resume: bool = True) -> Path:
    """Pretrain the nano model and write it, its tokenizer and its card.

    Parameters
    ----------
    folder : Path
        Where the model goes; a checkpoint stands there while training runs.
    config : PretrainConfig, optional
        Shape and schedule.
    resume : bool
        Go on from a checkpoint in the folder, if there is one of the same configuration.

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
    config = config or PretrainConfig()
    make_folder(folder)
    started = time.monotonic()
    sample = list(itertools.islice(corpus.documents(config.seed), 20_000))
    tokenizer = train_tokenizer(sample, config.vocab)
    tokenizer.model_max_length = config.context
    model = new_model(config, len(tokenizer), tokenizer.eos_token_id)
    stream = token_stream(tokenizer, config.seed, config.steps * config.batch * config.window)
    windows = stream.view(config.steps, config.batch, config.window)
    curve, earlier = _train(model, windows, config, folder / "checkpoint.pt" if resume else None)
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    held_out = token_stream(tokenizer, config.seed + 1, 64 * config.window)
    text = {
        "documents": corpus.SHARES,
        "wrong_solutions": corpus.WRONG_SHARE,
        "worded_as_the_task": problems.SHARED_WORDING,
        "tokens": len(stream),
        "sha256_of_tokens": hashlib.sha256(stream.to(torch.int32).numpy().tobytes()).hexdigest(),
    }
    measured = {
        "loss_curve": curve,
        "held_out_loss": round(evaluate_loss(model, held_out.view(64, config.window)), 4),
        "minutes": round(earlier + (time.monotonic() - started) / 60, 1),
    }
    write_card(folder, config, model, {"text": text, **measured})
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder for a model, before minutes are spent on one.

    Raises
    ------
    UserError
        If it cannot be made, or not be written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose --out") from None


def evaluate_loss(model: Any, windows: torch.Tensor) -> float:
    """Return the mean next-token loss in nats over windows of token ids, shape (N, T)."""
    with torch.no_grad():
        return float(model(input_ids=windows, labels=windows).loss)


def _train(
    model: Any, windows: torch.Tensor, config: PretrainConfig, checkpoint: Path | None
) -> tuple[list[list[float]], float]:
    """Train; returns the loss curve and the minutes that an interrupted call had spent before."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    curve: list[list[float]] = []
    first, earlier, started = 0, 0.0, time.monotonic()
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        if state["config"] == asdict(config):
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first, curve, earlier = state["step"], state["curve"], state["minutes"]
    bar = tqdm(
        range(first, config.steps), "pretrain-nano", config.steps, initial=first, mininterval=1
    )
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = windows[step]
        with models.autocast("cpu", models.has_fast_bf16()):
            loss = model(input_ids=batch, labels=batch).loss
        figure = loss.item()
        if not math.isfinite(figure):
            raise NumericalError(f"pretraining step {step}: loss is {figure}; lower --lr")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == config.steps - 1:
            curve.append([step, round(figure, 4)])
            bar.set_postfix(loss=f"{figure:.3f}")
        if checkpoint is not None and (step + 1) % config.checkpoint_every == 0:
            part = checkpoint.with_suffix(".part")
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "curve": curve,
                "minutes": earlier + (time.monotonic() - started) / 60,
                "config": asdict(config),
            }
            torch.save(state, part)
            os.replace(part, checkpoint)
    return curve, earlier


def write_card(folder: Path, config: PretrainConfig, model: Any, measured: dict) -> None:
    """Write ``card.json``: how the model was made, what was measured, hashes of its files."""
    import transformers

    card = {
        "name": "nano",
        "what": "LlamaForCausalLM pretrained from nothing on the small web of reft_lib.corpus",
        "made_by": "python -m reft_lib pretrain-nano",
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": asdict(config),
        **measured,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("model.safetensors", "tokenizer.json")
        },
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
