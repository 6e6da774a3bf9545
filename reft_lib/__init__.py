"""A small library for fine-tuning language models, built around ReFT.

Read the modules in the order in which data flows through them: problems, data, prompts,
answers, models, lora, value, rollout, rewards, kl, advantage, losses, sft, ppo, evaluate,
compare, plots.
"""

__version__ = "0.1.0"
