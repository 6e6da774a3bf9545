"""Low-rank adapters: what fine-tuning trains, and what the reference policy switches off.

A linear layer's weight W stays as it is; the adapter adds a product of two thin matrices,
``y = W x + (alpha / rank) B A x``, with A of shape (rank, in) and B of shape (out, rank)
(Hu et al. 2022, "LoRA", section 4.1). B starts at zero, so a new adapter changes nothing.

This gives reinforcement learning its reference policy for free. After the warm-up its adapter is
merged into W and a new one is put on top; the network with that one switched off *is* the
warm-up policy, to the bit, and no second copy is held in memory (:func:`reference`). Where weights
are bfloat16, a copy of the small adapter is kept instead (:func:`keep_reference`).

peft sets ``requires_grad`` to false on adapters that it switches off. PyTorch then drops their
share of a gradient that is still to come, without a word, if the forward pass that it belongs to
ran before the switch. All functions here therefore leave those flags as they found them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from reft_lib import fused
from reft_lib.config import LoraSettings
from reft_lib.errors import NumericalError, UserError

REFERENCE = "reference"
"""Name of the frozen copy that :func:`keep_reference` makes."""


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
        with seeded(seed):
            if not second:
                return fused.fuse(get_peft_model(model, config, adapter_name=name))
            with flags_kept(model):
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
    with flags_kept(model):
        model.set_adapter(name)
    try:
        yield model
    finally:
        with flags_kept(model):
            model.set_adapter(before)


@contextmanager
def reference(model: Any) -> Iterator[Any]:
    """Run as the reference policy: with all adapters off, or with the copy that was kept.

    This does not stop gradients from being recorded; wrap the pass in ``torch.no_grad()`` too.
    """
    if REFERENCE in model.peft_config:
        with active(model, REFERENCE):
            yield model
        return
    with flags_kept(model):
        model.base_model.disable_adapter_layers()
    try:
        yield model
    finally:
        with flags_kept(model):
            model.base_model.enable_adapter_layers()


def keep_reference(model: Any) -> Any:
    """Keep a frozen copy of the active adapter as the reference, and train on from there.

    This takes the place of :func:`merge` where the weights are bfloat16: with 8 bits for each
    weight, a sum with a small update rounds much of the update away, and the merged network is
    no longer the policy that was warmed up.

    Parameters
    ----------
    model : peft.PeftModel
        Gets one more adapter, named ``REFERENCE``; the active one stays active and trainable.

    Returns
    -------
    peft.PeftModel
    """
    name = model.active_adapter
    with seeded(0), flags_kept(model):
        model.add_adapter(REFERENCE, copy.copy(model.peft_config[name]))
    copy_adapter(model, name, REFERENCE)
    for parameter in adapter_parameters(model, REFERENCE):
        parameter.requires_grad_(False)
    return model


@torch.no_grad()
def copy_adapter(model: Any, source: str, target: str) -> None:
    """Give one adapter of a model the numbers of another, of the same rank and layers."""
    pairs = zip(adapter_parameters(model, source), adapter_parameters(model, target), strict=True)
    for x, mine in pairs:
        mine.copy_(x)


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
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
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Put every parameter's ``requires_grad`` back as it was, whatever peft makes of it."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
