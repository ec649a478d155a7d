"""A GPT as it is commonly written in plain torch: what a training step is measured against.

Layer norms with gain, one projection for queries, keys and values, scaled_dot_product_attention, GELU, learned positions, a tied
head, cross-entropy on all logits, gradients clipped, torch.optim.AdamW. The matrices are those of ramen's default model of the
same size, and so are the FLOPs. It steps in a process of its own: ramen's settings of the allocator would help it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.context import BenchmarkContext, Task


class Layer(nn.Module):
    """Attention and MLP, each behind a layer norm."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = (nn.LayerNorm(dim, bias=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        batch, time, dim = x.shape
        parts = self.qkv(self.before_attention(x)).split(dim, dim=2)
        q, k, v = (part.view(batch, time, self.heads, dim // self.heads).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, K)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, dim))
        return x + self.down(F.gelu(self.up(self.before_mlp(x))))


class Peer(nn.Module):
    """`peer(tokens, targets)` is the mean loss in nats."""

    def __init__(self, vocabulary: int, length: int, layers: int, dim: int, heads: int):
        super().__init__()
        self.table, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(layers))
        self.last = nn.LayerNorm(dim, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.table(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.last(x), self.table.weight)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def step(
    context: BenchmarkContext,
    vocabulary: int,
    rows: int,
    length: int,
    layers: int,
    dim: int,
    heads: int,
    compiled: bool,
) -> Task:
    """A training step of the peer on random text of rows x length tokens; matrices alone decay."""
    model = Peer(vocabulary, length, layers, dim, heads).to(context.device)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=context.device.type == "cuda")
    loss = torch.compile(model, dynamic=False, fullgraph=True) if compiled else model
    tokens = torch.randint(0, vocabulary - 1, (rows, length), device=context.device)

    def run() -> None:
        with context.autocast():
            mean = loss(tokens, tokens)
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    run()
    return run
