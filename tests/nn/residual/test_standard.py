"""The standard stream adds."""

import torch

from ramen.nn.residual.standard import Standard


def test_adds_the_branch():
    module, x = Standard(4, 0), torch.arange(8.0).view(1, 2, 4)
    assert module.open(x) is x and module.close(x) is x
    assert torch.equal(module.connect(x, lambda y: 3 * y), 4 * x)
    assert not list(module.parameters())
