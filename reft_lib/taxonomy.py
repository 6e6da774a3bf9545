"""The map of fine-tuning as links: what each kind learns from, and the chapter that teaches it."""

from __future__ import annotations

import html
from typing import NamedTuple

from reft_lib.explorer import is_live
from reft_lib.pages import PAPER, Html
from reft_lib.style import tint


class Kind(NamedTuple):
    """One kind of fine-tuning, or one thing to do with several of them."""

    name: str
    about: str
    """A few words below the name."""
    page: str
    """The chapter that teaches it."""


SIGNALS = {
    "Unsupervised": ("learns from bare text", "#999999"),
    "Supervised": ("learns from given answers", "sft"),
    "Reinforcement": ("learns from a reward", "reft"),
}
"""The columns: what the model is trained with, and the colour of the column."""
KINDS = {
    "Unsupervised": (
        Kind("Self-supervised", "next token, or hidden ones", "11_self_supervised"),
        Kind("Adversarial", "one network against another", "13_adversarial"),
    ),
    "Supervised": (
        Kind("SFT on chains of thought", "question to reasoning and answer", "03_sft"),
        Kind("Instruction tuning", "requests of many kinds", "10_instruction_tuning"),
        Kind("Self-training", "its own right answers", "08_self_training"),
    ),
    "Reinforcement": (
        Kind("RLHF, DPO", "learnt from preferences", "14_rlhf"),
        Kind("RFT with graders", "a program or a model scores", "15_rft_graders"),
        Kind("GRPO, RLOO, REINFORCE", "PPO’s relatives", "16_ppo_relatives"),
    ),
}
"""The kinds below each signal."""
REFT = (
    Kind("ReFT", "warm-up by SFT, then PPO for right answers", "05_reft"),
    Kind("PPO", "by hand, token by token", "04_ppo_by_hand"),
    Kind("ReFT against SFT", "measured", "06_reft_vs_sft"),
    Kind("Reward hacking, ablations", "what each part is for", "09_hacking_ablations"),
    Kind("On one GPU", "pretrained models, public data", "07_one_gpu"),
)
"""What lies across the supervised and the reinforcement column."""
ACROSS = (
    Kind("Domain adaptation", "a goal that any of them can serve", "12_domain_adaptation"),
    Kind("The scoreboard", "all of them on the same questions", "17_scoreboard"),
)
"""What lies across all columns."""

# The classes are the map's own; on a narrow screen the columns stand below each other.
STYLE = """
.reft-map{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:.5rem;padding:.5rem}
.reft-map section{padding:.4rem .6rem;border:1px solid #767676;border-radius:6px}
.reft-map p{margin:0 0 .2rem}.reft-map ul{margin:0;padding:0;list-style:none}
.reft-map li{margin:.3rem 0;line-height:1.25}.reft-map small{display:block;font-size:.85em}
.reft-map a{color:#004b7a;text-decoration:underline;font-weight:600}
.reft-map .tall{grid-row:span 2}.reft-map .two{grid-column:span 2;border:2px solid #1a1a1a}
.reft-map .two ul,.reft-map .all ul{display:grid;gap:0 .8rem;
grid-template-columns:repeat(auto-fill,minmax(11rem,1fr))}
.reft-map .all{grid-column:1/-1;border-style:dashed}
@media(max-width:600px){.reft-map{grid-template-columns:1fr}.reft-map section{grid-column:1}}
"""


def _item(kind: Kind, ending: str) -> str:
    number = int(kind.page[:2])
    return (
        f'<li><a href="{kind.page}{ending}">{html.escape(kind.name)}</a> '
        f"<small>{html.escape(kind.about)}, chapter {number}</small></li>"
    )


def _section(head: str, kinds: tuple[Kind, ...], ending: str, colour: str, kind: str) -> str:
    items = "".join(_item(k, ending) for k in kinds)
    title = f"<p>{head}</p>" if head else ""
    return (
        f'<section class="{kind}" style="background:{colour}">{title}'
        f'<ul role="list">{items}</ul></section>'
    )


def chapter_map(ending: str | None = None) -> Html:
    """Return the map with a link to each kind's chapter; make it a cell's last line.

    Parameters
    ----------
    ending : str, optional
        Of the files that links lead to; by default ``.html`` in a page and ``.ipynb`` in Jupyter.

    Returns
    -------
    Html
        Three columns of links, ReFT across two of them; as text, the same as lines.
    """
    if ending is None:
        ending = ".ipynb" if is_live() else ".html"
    parts, lines = [], []
    for name, (signal, colour) in SIGNALS.items():
        head = f"<strong>{name}</strong> {signal}"
        shape = "tall" if name == "Unsupervised" else ""
        parts.append(_section(head, KINDS[name], ending, tint(colour, 0.15), shape))
        lines += [f"{name}: {signal}", *(f"  {k.name}: {k.page}" for k in KINDS[name])]
    head = "<strong>Supervised, then reinforced</strong>"
    parts.append(_section(head, REFT, ending, "#ffffff", "two"))
    parts.append(_section("", ACROSS, ending, "#ffffff", "all"))
    lines += ["Supervised, then reinforced", *(f"  {k.name}: {k.page}" for k in REFT)]
    lines += ["Across", *(f"  {k.name}: {k.page}" for k in ACROSS)]
    inner = "".join(parts)
    shown = (
        f"<style>{STYLE}</style>"
        f'<nav class="reft-map" aria-label="Map of fine-tuning" style="{PAPER}">{inner}</nav>'
    )
    return Html(shown, "\n".join(lines))
