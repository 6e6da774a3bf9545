"""The book's widgets, by name: each returns what a cell's last line shows.

They read run logs and rollouts, and never train. All are made by :mod:`reft_lib.explorer`, and so
move in a page without a kernel, and continuously in Jupyter.
"""

from reft_lib.explorer import Explorer, Knob, explore
from reft_lib.widget_chooser import method_chooser
from reft_lib.widget_hacking import hacking_explorer
from reft_lib.widget_losses import clip_explorer
from reft_lib.widget_replay import training_replay
from reft_lib.widget_returns import returns_explorer
from reft_lib.widget_rewards import reward_lab
from reft_lib.widget_tokens import token_lens_explorer
from reft_lib.widget_votes import voting_explorer

__all__ = [
    "Explorer",
    "Knob",
    "clip_explorer",
    "explore",
    "hacking_explorer",
    "method_chooser",
    "returns_explorer",
    "reward_lab",
    "token_lens_explorer",
    "training_replay",
    "voting_explorer",
]
