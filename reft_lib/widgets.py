"""The book's widgets, by name: each returns what a cell's last line shows.

They read run logs and rollouts, and never train. All are made by :mod:`reft_lib.explorer`, and so
move in a page without a kernel, and continuously in Jupyter.
"""

from reft_lib.explorer import Explorer, Knob, explore
from reft_lib.widget_losses import clip_explorer

__all__ = ["Explorer", "Knob", "clip_explorer", "explore"]
