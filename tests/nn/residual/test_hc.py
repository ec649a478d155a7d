"""Hyper-connections: the paper's formulas with loops, orientation, own streams and fractions."""

import pytest
import torch

from ramen.nn.residual.hc import HC
from ramen.ops.rms_norm import rms_norm

DIM = 12


@pytest.fixture
def hc(component):
    """hc(streams, fractions, sublayer, **more): a connection."""
    return lambda streams=4, fractions=1, sublayer=1, **more: component(
        "residual", "hc", DIM, sublayer, streams=streams, fractions=fractions, **more
    )


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_loops(module: HC, h: torch.Tensor, branch) -> torch.Tensor:
    """One token (S, D), slot by slot."""
    f, width, slots = module.fractions, module.width, list(h.reshape(-1, module.width))
    table = []  # table[s]: the row of A and b that slot s says
    for slot, static in zip(slots, module.static, strict=True):
        dynamic = torch.tanh(rms_norm(slot) @ module.weight.T)
        alpha, beta = module.scale.tolist()
        scales = torch.tensor([alpha] * (f + len(slots)) + [beta])
        table.append(static + scales * dynamic)
    x = torch.cat([sum(table[s][i] * slots[s] for s in range(len(slots))) for i in range(f)])
    delta = branch(x)
    new = []
    for t in range(len(slots)):
        mixed = sum(table[s][f + t] * slots[s] for s in range(len(slots)))
        part = t % f
        new.append(mixed + table[t][-1] * delta[part * width : (part + 1) * width])
    return torch.cat(new).view(h.shape)


@pytest.mark.parametrize(("streams", "fractions"), [(4, 1), (2, 3), (1, 4)])
def test_formula(streams, fractions, hc):
    module, h = hc(streams, fractions, noise=0.5), values(2, 3, streams, DIM)
    after = module.connect(h, torch.tanh)
    for b in range(2):
        for t in range(3):
            torch.testing.assert_close(after[b, t], by_loops(module, h[b, t], torch.tanh), atol=1e-5, rtol=1e-5)


def test_column_t_of_the_mixing_matrix_makes_stream_t(hc):
    module = hc(3, dynamic=False)
    with torch.no_grad():
        module.static[0, 1 + 2] = 5.0  # from stream 0 to stream 2
    h = values(1, 1, 3, DIM)
    after = module.connect(h, torch.zeros_like)
    torch.testing.assert_close(after[0, 0, 2], h[0, 0, 2] + 5 * h[0, 0, 0])
    assert torch.equal(after[0, 0, :2], h[0, 0, :2])


@pytest.mark.parametrize(("streams", "fractions"), [(4, 1), (2, 3), (1, 4), (3, 2)])
@pytest.mark.parametrize("sublayer", [0, 1, 6])
def test_a_sublayer_starts_reading_its_own_stream_whole(streams, fractions, sublayer, hc):
    module, h, seen = hc(streams, fractions, sublayer), values(2, 3, streams, DIM), []
    after = module.connect(h, lambda x: seen.append(x) or torch.ones_like(x))
    assert torch.equal(seen[0], h[:, :, sublayer % streams])
    torch.testing.assert_close(after, h + 1)


def test_permuting_streams_permutes_the_result(hc):
    module, h, order = hc(4, noise=0.5), values(2, 3, 4, DIM), torch.tensor([2, 0, 3, 1])
    after = module.connect(h, torch.tanh)
    columns = torch.cat([torch.tensor([0]), 1 + order, torch.tensor([5])])
    with torch.no_grad():
        module.static.copy_(module.static[order][:, columns])
        module.weight.copy_(module.weight[columns])
    torch.testing.assert_close(module.connect(h[:, :, order], torch.tanh), after[:, :, order], atol=1e-6, rtol=1e-5)


def test_parameters(hc):
    # Static S (S + 2), dynamic D (S + 2), two scales: the paper's count, norms aside.
    assert sum(p.numel() for p in hc(4).parameters()) == 4 * 6 + DIM * 6 + 2
    assert sum(p.numel() for p in hc(4, dynamic=False).parameters()) == 4 * 6
    assert sum(p.numel() for p in hc(2, fractions=3).parameters()) == 6 * (3 + 6 + 1) + DIM // 3 * (3 + 6 + 1) + 2


def test_refuses_a_connection_that_could_do_nothing(hc):
    with pytest.raises(ValueError, match="streams must be >= 2 when fractions is 1, got 1"):
        hc(1)
    with pytest.raises(ValueError, match="fractions must be >= 1 and divide the model width 12, got 5"):
        hc(2, fractions=5)
