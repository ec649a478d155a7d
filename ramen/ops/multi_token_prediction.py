"""Losses on the tokens after the next one, from the same logits: multi-token prediction without parameters.

    loss of a row = CE(z, t_1) + sum_k w_k CE(z, t_k),  k = 2 .. n;  gradient = (1 + sum w) p - e_(t_1) - sum w_k e_(t_k)

All share one softmax, so the head's work is done once (ramen.ops.cross_entropy) and what the further targets change is a factor a
row and a number a target.
Source: modded-nanogpt (record 53); Gloeckle et al. 2024, arXiv 2404.19737, have a head for each token.
Cost: one more pass over the gradient of the logits.
"""

import torch
from torch import Tensor

from ramen.ops.softcap import Softcap

IGNORED = -100


def mtp_targets(targets: Tensor, documents: Tensor, count: int) -> Tensor:
    """(B, T, count): the second, third ... token after each, as `targets` (B, T) hold the next one; -100 where there is none.

    None are those of another of the `documents` (B, T), and all of a token whose next one does not count.
    """
    found = []
    for step in range(1, count + 1):
        later, same = torch.full_like(targets, IGNORED), torch.zeros_like(targets, dtype=torch.bool)
        later[:, :-step] = targets[:, step:]
        same[:, :-step] = documents[:, step:] == documents[:, :-step]
        found.append(torch.where(same & (targets != IGNORED), later, IGNORED))
    return torch.stack(found, dim=-1)


class MTPLoss:
    """The further targets of some rows of logits, to be made before the logits' memory is used for their gradient."""

    def __init__(self, logits: Tensor, targets: Tensor, further: Tensor, weights: Tensor, softcap: Softcap | None):
        """Raw logits (n, V), next targets (n,), further ones (n, m) and their weights (m,)."""
        self.targets = torch.cat((targets.unsqueeze(1), further), dim=1)  # (n, 1 + m)
        self.index = self.targets.clamp_min(0)
        self.weights = (further != IGNORED) * weights  # (n, m)
        self.capped = logits.gather(1, self.index).float()
        self.slope = torch.ones_like(self.capped)
        if softcap:
            curve = softcap.curve_(self.capped.add_(softcap.shift).mul_(1 / softcap.scale))
            self.capped = curve * softcap.limit
            self.slope = softcap.slope_(curve).mul_(softcap.limit / softcap.scale)

    def join(self, losses: Tensor, gradient: Tensor | None) -> Tensor:
        """All losses (n,) from those of the next token; its gradient of the logits (n, V) becomes that of all, in place."""
        share = self.weights.sum(1, keepdim=True)  # (n, 1)
        if gradient is not None:
            gradient.mul_(1 + share)
            change = torch.cat((share, -self.weights), dim=1).mul_(self.slope)
            gradient.scatter_add_(1, self.index, change.to(gradient.dtype))
        behind = self.capped[:, :1] - self.capped[:, 1:]  # what a further target's loss is above the next one's
        return losses * (1 + share.squeeze(1)) + (self.weights * behind).sum(1)
