"""A model with everything switched on is one graph for torch.compile, and a new batch is no new graph.

Traced only (backend="eager"): what the compiler makes of it is tested where it is used.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from ramen.kernels.cuda.attention import FlexAttention
from ramen.ops.document_mask import DocumentMask

EVERYTHING = (
    "model.layers=4", "attention.pattern=SSLN", "attention.long_window_tokens=16", "attention.short_window_tokens=4",
    "attention.key_offset=true", "attention.gate_inputs=12", "norm=layer", "norm.bias=true", "embedding=split",
    "value_embedding=tables", "stream=modded", "residual=hc", "mlp=nff",
)  # fmt: skip


@pytest.mark.parametrize("position", ["yarn", "learned"])
def test_everything_is_one_graph(build_gpt, rows, position):
    model, counter = build_gpt(*EVERYTHING, f"position={position}", noise=0.3), CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=False, fullgraph=True)
    for seed in (0, 1):
        tokens = rows((12, 20), (5, 7, 20), seed=seed)
        torch.testing.assert_close(compiled(tokens, tokens), model(tokens, tokens), rtol=1e-4, atol=1e-3)
    assert counter.frame_count == 1
    model.move_windows((20, 6))
    torch.testing.assert_close(compiled(tokens, tokens), model(tokens, tokens), rtol=1e-4, atol=1e-3)
    assert counter.frame_count == 2


def test_flex_attention_and_its_block_mask_are_one_graph():
    def attend(documents, q, k, v):
        mask = DocumentMask(documents)
        return sum(FlexAttention.attend(q, k, v, mask, window, 0.25) for window in (None, 7, None))

    counter = CompileCounter()
    compiled = torch.compile(attend, backend=counter, dynamic=False, fullgraph=True)
    q, k, v = torch.randn(3, 2, 64, 2, 16)
    for first in (9, 30):
        documents = torch.cat([torch.full((first,), 0), torch.full((64 - first,), 1)]).expand(2, -1).contiguous()
        with torch.no_grad():
            torch.testing.assert_close(compiled(documents, q, k, v), attend(documents, q, k, v), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1
