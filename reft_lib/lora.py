"""Low-rank adapters: what fine-tuning trains, and what the reference policy switches off.

A linear layer's weight W stays as it is; the adapter adds a product of two thin matrices,
``y = W x + (alpha / rank) B A x``, with A of shape (rank, in) and B of shape (out, rank)
(Hu et al. 2022, "LoRA", section 4.1). B starts at zero, so a new adapter changes nothing.

This gives reinforcement learning its reference policy for free. After the warm-up its adapter is
merged into W and a new one is put on top; the network with that one switched off *is* the
warm-up policy, to the bit, and no second copy is held in memory (:func:`reference`).

peft sets ``requires_grad`` to false on adapters that it switches off. PyTorch then drops their
share of a gradient that is still to come, without a word, if the forward pass that it belongs to
ran before the switch. All functions here therefore leave those flags as they found them.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reft_lib.config import LoraSettings
from reft_lib.errors import NumericalError, UserError

WEIGHTS_FILE = "adapter_model.safetensors"
"""The adapter's matrices, in peft's format."""
CONFIG_FILE = "adapter_config.json"
"""The adapter's rank, scale and target layers, in peft's format."""


def add_adapter(model: Any, settings: LoraSettings, seed: int = 0, name: str = "default") -> Any:
    """Put a new adapter on a model.

    On a plain model the adapter becomes the active one and all weights of the model are frozen.
    On a model that has adapters already (a value network of its own beside the policy), the new
    one is trainable too, but the active one stays the same; see :func:`active`.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        Changed in place: its linear layers are wrapped.
    settings : LoraSettings
        Rank, scale and target layers. ``targets`` is ``"all-linear"`` (every linear layer but
        the language-model head) or a regular expression that matches whole module names.
    seed : int
        Determines matrix A (Kaiming-uniform). The global random state is left untouched.
    name : str
        The adapter's name.

    Returns
    -------
    peft.PeftModel

    Raises
    ------
    UserError
        If no layer matches ``targets``, or the name is taken.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=settings.targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=getattr(model, "name_or_path", None) or None,
    )
    second = isinstance(model, PeftModel)
    if second and name in model.peft_config:
        raise UserError(f"an adapter named {name!r} is there already; choose another name")
    try:
        with _seeded(seed):
            if not second:
                return get_peft_model(model, config, adapter_name=name)
            with _flags_kept(model):
                model.add_adapter(name, config)
        if not adapter_parameters(model, name):  # older peft lets a second one pass
            raise ValueError("no layer matches")
    except ValueError as err:
        raise UserError(
            f"lora.targets {settings.targets!r}: no layer of the model matches; give "
            "'all-linear' or a regular expression for whole module names, such as '.*q_proj'"
        ) from err
    for parameter in adapter_parameters(model, name):
        parameter.requires_grad_(True)
    return model


@contextmanager
def active(model: Any, name: str) -> Iterator[Any]:
    """Run with another adapter than the present one; both stay trainable.

    Parameters
    ----------
    model : peft.PeftModel
    name : str
        The other adapter, for instance ``"value"``.
    """
    before = model.active_adapter
    with _flags_kept(model):
        model.set_adapter(name)
    try:
        yield model
    finally:
        with _flags_kept(model):
            model.set_adapter(before)


@contextmanager
def reference(model: Any) -> Iterator[Any]:
    """Run with all adapters off: the network as it was before the active adapter was added.

    This does not stop gradients from being recorded; wrap the pass in ``torch.no_grad()`` too.
    """
    with _flags_kept(model):
        model.base_model.disable_adapter_layers()
    try:
        yield model
    finally:
        with _flags_kept(model):
            model.base_model.enable_adapter_layers()


def merge(model: Any) -> Any:
    """Add the active adapter to the weights it stands beside, and drop all adapters.

    Parameters
    ----------
    model : peft.PeftModel
        Used up: its layers are changed in place, without a second copy.

    Returns
    -------
    transformers.PreTrainedModel
        The plain model, all of whose weights are trainable again, as after loading.

    Raises
    ------
    NumericalError
        If the adapter is not finite; merging it would spoil the model.
    """
    for parameter in adapter_parameters(model):
        if not torch.isfinite(parameter).all():
            raise NumericalError("the adapter holds a weight that is not finite; not merged")
    plain = model.merge_and_unload()
    vars(plain).pop("peft_config", None)  # older peft leaves it, then warns of two adapters
    return plain.requires_grad_(True)


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return what an optimiser should get: the parameters that are trainable, in order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapter_parameters(model: nn.Module, name: str | None = None) -> list[nn.Parameter]:
    """Return the parameters of one adapter, or of all, whether trainable or not, in order."""
    return [
        parameter
        for key, parameter in model.named_parameters()
        if ".lora_" in key and (name is None or key.split(".")[-2] == name)
    ]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many numbers of a model are trainable, and how many it has in all."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return sum(parameter.numel() for parameter in trainable_parameters(model)), total


def save_adapter(model: Any, folder: str | Path, name: str = "default") -> Path:
    """Write an adapter in peft's standard format, which other tools read too.

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
        with _seeded(0):  # peft draws matrices at random before it reads the true ones
            if is_peft:
                with _flags_kept(model):
                    model.load_adapter(str(folder), **options)
            else:
                model = PeftModel.from_pretrained(model, str(folder), **options)
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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of one's own, and put the global random state back afterwards.

    It also silences the warnings of peft and transformers about each other's old names.
    """
    # Asking for CUDA's state would start CUDA in a process that has no use for it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        yield


@contextmanager
def _flags_kept(model: nn.Module) -> Iterator[None]:
    """Put every parameter's ``requires_grad`` back as it was, whatever peft makes of it."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
