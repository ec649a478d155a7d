"""NoPE is the identity."""

import pytest
import torch

from ramen.kernels import status
from ramen.nn.position.none import NoPE


def test_is_the_identity():
    x = torch.randn(2, 5, 2, 3, 8)
    assert NoPE(8, 5)(x) is x


@pytest.mark.skipif(status() != "C kernels", reason=status())
def test_the_kernel_does_all_of_attention_without_it(build_gpt, rows, monkeypatch):
    """Also the norm of queries and keys, as under a rotary position; the same as torch's own attention."""
    words, tokens = ("position=none", "attention.output_init_scale=1"), rows((5, 7), (12,))
    expected = build_gpt(*words, "attention.backend=sdpa")(tokens)
    model = build_gpt(*words)
    monkeypatch.setattr(NoPE, "forward", None)
    torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-5)
