"""RMS norm with a gain: it starts as the one without, and the gain multiplies."""

import torch

from ramen.ops.rms_norm import rms_norm


def test_starts_as_the_norm_without_gain_and_multiplies_by_it(component):
    norm = component("norm", "rms_gain", 8)
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(norm(x), rms_norm(x))
    norm.gain.data = torch.arange(8.0)
    torch.testing.assert_close(norm(x), rms_norm(x) * torch.arange(8.0))
