"""Adapters on disk, in peft's standard format, which other tools read too."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from reft_lib import fused
from reft_lib.errors import UserError
from reft_lib.lora import adapter_parameters, flags_kept, seeded

WEIGHTS_FILE = "adapter_model.safetensors"
"""The adapter's matrices."""
CONFIG_FILE = "adapter_config.json"
"""The adapter's rank, scale and target layers."""


def save_adapter(model: Any, folder: str | Path, name: str = "default") -> Path:
    """Write an adapter.

    The folder is made if absent, gets ``CONFIG_FILE`` and ``WEIGHTS_FILE``, and is returned.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    # "auto" would ask the hub whether the vocabulary has grown; adapters never touch embeddings.
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    state = {key: value.detach().cpu().contiguous() for key, value in sorted(state.items())}
    config = copy.copy(model.peft_config[name])
    config.inference_mode = True  # by convention: whoever loads it does not train it
    if not isinstance(config.target_modules, str):
        # A set's order differs between processes; files of equal adapters should be equal.
        config.target_modules = sorted(config.target_modules)
    unfinished = folder / (WEIGHTS_FILE + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_file(state, unfinished, metadata={"format": "pt"})
        os.replace(unfinished, folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as err:
        raise UserError(
            f"{folder}: the adapter cannot be written there ({err}); give a writable folder"
        ) from err
    return folder


def load_adapter(
    model: Any, folder: str | Path, name: str = "default", trainable: bool = True
) -> Any:
    """Put a saved adapter on the model that it was trained for.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
    folder : str or Path
        Holds ``CONFIG_FILE`` and ``WEIGHTS_FILE``.
    name : str
        What the adapter is to be called in the model; the active one stays the same.
    trainable : bool
        Whether training may go on.

    Returns
    -------
    peft.PeftModel

    Raises
    ------
    UserError
        If the folder holds no adapter, or one for a model of another shape.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    folder = Path(folder)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise UserError(f"{folder}: no {file} in it; an adapter's folder holds both files")
    is_peft = isinstance(model, PeftModel)
    if is_peft and name in model.peft_config:
        raise UserError(f"an adapter named {name!r} is there already; choose another name")
    options: dict[str, Any] = {"adapter_name": name, "is_trainable": trainable}
    try:
        with seeded(0):  # peft draws matrices at random before it reads the true ones
            if is_peft:
                with flags_kept(model):
                    model.load_adapter(str(folder), **options)
            else:
                model = fused.fuse(PeftModel.from_pretrained(model, str(folder), **options))
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as opened:
            saved = set(opened.keys())
        have = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        if set(have) != saved:  # peft only warns
            raise ValueError(f"{len(saved)} matrices in the file, {len(have)} in the model")
    except Exception as err:  # peft, torch and safetensors raise many kinds
        reason = (str(err).splitlines() or [""])[0][:200]
        raise UserError(
            f"{folder}: this adapter does not fit the model ({reason}); "
            "load the model that it was trained for"
        ) from err
    for parameter in adapter_parameters(model, name):
        parameter.requires_grad_(trainable)
    return model
