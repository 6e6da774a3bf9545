"""Virtual adversarial training: SFT whose predictions must withstand the worst small perturbation.

The other meaning of "adversarial". No second network plays: the adversary is a perturbation r of
the input embeddings s of a row, of norm epsilon, in the direction that changes the output
distributions most (Miyato et al. 2017, section 3; Miyato et al. 2019, section 3):

    r = argmax_{norm(r) = epsilon} KL(p(. | s) || p(. | s + r))        L = L_SFT + weight * that KL

No label enters the KL: "virtual" says that the model's own prediction stands in for it, so
unlabelled rows could be used, too. For small r the KL is r' H r / 2, and its maximum lies along the
first eigenvector of H. Power iteration finds it: the gradient of the KL at a small random d is
about H d, which turns d towards that eigenvector.

Miyato et al. 2017 normalise the embeddings, lest training make them large and so epsilon small.
Here they are frozen, and epsilon is told in norms of a row's own embeddings, which is as good.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from reft_lib import decode, lora, losses, models, sft
from reft_lib.config import Format, SftConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError
from reft_lib.loop import Loop
from reft_lib.method_settings_adversarial import VatConfig


def embed(model: Any, batch: sft.Batch) -> Tensor:
    """Return the input embeddings of a batch, (B, T, H), 0 on padding, without gradient."""
    with torch.no_grad():
        return model.get_input_embeddings()(batch.tokens) * batch.mask[:, :, None]


def logits_from(model: Any, embeddings: Tensor, batch: sft.Batch) -> Tensor:
    """Return the logits of the batch's labelled tokens, (N, V), read from embeddings (B, T, H)."""
    base = models.unwrapped(model)
    hidden = getattr(base, base.base_model_prefix)(
        inputs_embeds=embeddings,
        attention_mask=batch.mask,
        position_ids=decode.positions(batch.mask),
        use_cache=False,
    ).last_hidden_state
    wanted = batch.labels[:, 1:] != sft.IGNORE
    return model.get_output_embeddings()(hidden[:, :-1][wanted])


def divergence(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return the mean KL(clean || perturbed) of next-token distributions, in nats a token.

    Parameters
    ----------
    clean, perturbed : Tensor (N, V)
        Logits. The clean ones are what is to be kept, so no gradient goes through them.
    """
    p = torch.log_softmax(clean.detach().float(), dim=-1)
    q = torch.log_softmax(perturbed.float(), dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1).mean()


def of_norm(direction: Tensor, embeddings: Tensor, size: float) -> Tensor:
    """Return each row's direction with ``size`` times the norm of the row's embeddings.

    Both are (B, T, H), 0 on padding; norms are taken over a whole row, as one long vector. A row
    without direction stays 0.
    """
    norm = direction.flatten(1).norm(dim=1).clamp(min=torch.finfo(direction.dtype).tiny)
    wanted = size * embeddings.flatten(1).norm(dim=1)
    return direction / norm[:, None, None] * wanted[:, None, None]


def perturbation(
    model: Any,
    batch: sft.Batch,
    embeddings: Tensor,
    clean: Tensor,
    config: VatConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the perturbation (B, T, H) that changes the predictions most, of the stated norm.

    Parameters
    ----------
    model : the policy
        Its parameters get no gradient here.
    batch : sft.Batch
    embeddings : Tensor (B, T, H)
        Of :func:`embed`.
    clean : Tensor (N, V)
        The logits at these embeddings.
    config : VatConfig
    generator : torch.Generator, optional
        Draws the direction to begin with.

    Notes
    -----
    Miyato et al. 2019, section 3.3, algorithm 1: their xi is ``probe``, their K ``iterations``.
    """
    noise = torch.randn(embeddings.shape, generator=generator, device=embeddings.device)
    direction = noise * batch.mask[:, :, None]
    for _ in range(config.iterations):
        probe = of_norm(direction, embeddings, config.probe).requires_grad_(True)
        far = divergence(clean, logits_from(model, embeddings + probe, batch))
        direction = torch.autograd.grad(far, probe)[0] * batch.mask[:, :, None]
    return of_norm(direction, embeddings, config.epsilon)


def vat_loss(
    model: Any, batch: sft.Batch, config: VatConfig, generator: torch.Generator | None = None
) -> tuple[Tensor, dict[str, float]]:
    """SFT's loss plus the divergence at the worst perturbation.

        L = -mean log p(label) + weight * mean KL(p(. | s) || p(. | s + r))

    Returns
    -------
    loss : scalar Tensor, in nats a token
    stats : dict of float
        ``loss``, the first term; ``divergence``, the second without its weight.
    """
    embeddings = embed(model, batch)
    clean = logits_from(model, embeddings, batch)
    labels = batch.labels[:, 1:]
    wanted = losses.cross_entropy(clean, labels[labels != sft.IGNORE], sft.IGNORE)
    if config.weight == 0:
        return wanted, {"loss": wanted.item(), "divergence": 0.0}
    r = perturbation(model, batch, embeddings, clean, config, generator)
    far = divergence(clean, logits_from(model, embeddings + r, batch))
    stats = {"loss": wanted.item(), "divergence": far.item()}
    return wanted + config.weight * far, stats


def vat_steps(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    config: SftConfig,
    vat: VatConfig,
    seed: int = 0,
    loop: Loop | None = None,
) -> Iterator[dict[str, float]]:
    """Train the model's adapter in place; yields after every optimiser step.

    Parameters and errors are those of :func:`reft_lib.sft.sft_steps`, and with weight 0 so is what
    it learns; ``vat`` is what comes on top. There is no ``bf16``: what a small perturbation changes
    would drown in its rounding.

    Yields
    ------
    dict
        ``loss`` and ``divergence`` (nats a token), ``grad_norm``, ``step_seconds``.
    """
    loop = loop or sft.begin(model, config, seed)
    pairs = sft.encode(tokenizer, examples, fmt, models.context_length(model))
    while loop.step < config.epochs * sft.steps_per_epoch(len(pairs), config):
        started = time.monotonic()
        rows = [pairs[i] for i in loop.draw(len(pairs), config.batch_size)]
        loop.optimizer.zero_grad()
        total = {"loss": 0.0, "divergence": 0.0}
        for part, share in sft.micro_batches(rows, config.micro_batch):
            batch = sft.collate(part, tokenizer.eos_token_id, model.device)
            loss, stats = vat_loss(model, batch, vat, loop.generator)
            if not torch.isfinite(loss):
                raise NumericalError(f"VAT step {loop.step}: loss is {loss.item()}; lower sft.lr")
            (loss * share).backward()
            total = {name: x + share * stats[name] for name, x in total.items()}
        loop.step += 1
        loop.warm_up(config.lr, config.lr_warmup_steps)
        norm = float(
            torch.nn.utils.clip_grad_norm_(lora.trainable_parameters(model), config.grad_clip)
        )
        loop.optimizer.step()
        yield {**total, "grad_norm": norm, "step_seconds": time.monotonic() - started}
