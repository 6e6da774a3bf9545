"""The value head: what total reward to expect from here on.

PPO needs, at each token, a guess of the reward still to come. The head that makes it reads the
policy's own last hidden state, so that one forward pass serves both. Two other arrangements:

- ``detach=True``: the head still reads that state, but its error trains the head alone and leaves
  the trunk to the policy loss.
- a separate value network: the same frozen weights with a *second LoRA adapter* of its own, whose
  hidden states feed this same head (arranged in ``reft_lib.ppo``). Nothing here changes for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """One linear layer from a hidden state to one number.

        V_t = w . h_t + b

    Parameters
    ----------
    hidden_size : int
        Width H of the hidden states.
    detach : bool
        If true, the value loss gives no gradient to the trunk. The paper's choice is false.
    std : float
        Standard deviation of the initial weights; the bias starts at 0. Small, so that the first
        values are near 0 and the first advantages near the rewards themselves.

    Notes
    -----
    ReFT, section 3: the value model is a linear head on the policy's last hidden state. The weights
    and the arithmetic are float32 even under autocast, for a return such as 0.97 is 0.96875 or
    0.97265625 in bfloat16, an error as large as the KL penalties it is made of.
    """

    def __init__(self, hidden_size: int, detach: bool = False, std: float = 0.01) -> None:
        super().__init__()
        self.detach = detach
        self.linear = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Estimate the value before each token.

        Parameters
        ----------
        hidden : Tensor (B, R, H)
            Last hidden states of the positions that *predict* the response tokens.

        Returns
        -------
        float32 Tensor (B, R)
        """
        if self.detach:
            hidden = hidden.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            return self.linear(hidden.float()).squeeze(-1)
