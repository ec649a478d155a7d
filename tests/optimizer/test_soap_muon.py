"""SOAP-Muon: the step against an independent float64 writing of its source, the eigenbases, rounding."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ramen.ops.polar_express import polar_express


class Source:
    """The method as its source has it, for one matrix: eigh at first, then sort and QR after each step (or each tenth).

    `hold` is the share of the old direction in the factorisation and `floor` that of the largest root in the division: 0 in the
    source, whose eps is 1e-8.
    """

    def __init__(self, shape: tuple[int, int], *, every: int = 1, hold: float = 0.0, floor: float = 0.0):
        self.every, self.hold, self.floor, self.step = every, hold, floor, 0
        self.momentum, self.square = torch.zeros(shape).double(), torch.zeros(shape).double()
        self.means = [torch.zeros(size, size).double() for size in shape]
        self.bases: list[Tensor] = []

    def direction(self, g: Tensor) -> Tensor:
        self.momentum = 0.95 * self.momentum + 0.05 * g
        used = 0.05 * g + 0.95 * self.momentum
        if self.bases:
            q, r = self.bases
            seen = q.T @ used @ r
            self.square = 0.9 * self.square + 0.1 * seen * seen
            root = self.square.sqrt()
            used = q @ (seen / torch.maximum(root + 1e-8 * (not self.floor), self.floor * root.max())) @ r.T
        self.means = [0.9 * mean + 0.1 * outer for mean, outer in zip(self.means, (g @ g.T, g.T @ g), strict=True)]
        if not self.bases:
            self.bases = [torch.linalg.eigh(mean).eigenvectors.flip(1) for mean in self.means]
        elif self.step % self.every == 0:
            for axis, mean in enumerate(self.means):
                basis = self.bases[axis]
                order = torch.argsort((basis.T @ mean @ basis).diagonal(), descending=True)
                self.square = self.square.index_select(axis, order)
                basis = basis[:, order]
                self.bases[axis] = torch.linalg.qr(mean @ basis + self.hold * mean.trace() / len(mean) * basis).Q
        self.step += 1
        return polar_express(used, dtype=torch.float64)


def directions(build, gradients: list[Tensor], **changes) -> list[Tensor]:
    """The optimizer's steps, of length 1."""
    p = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = build("soap_muon", [p], **{"lr": 1.0, "weight_decay": 0.0, "scaling": "none"} | changes)
    steps = []
    for gradient in gradients:
        before, p.grad = p.detach().clone(), gradient
        optimizer.step()
        steps.append(before - p.detach())
    return steps


def sloped(random, *shape: int, seed: int) -> Tensor:
    """A gradient whose rows and columns have different sizes, so that its means have separate eigenvalues."""
    slope = [torch.logspace(0, -1, size, dtype=torch.float64) for size in shape]
    return slope[0][:, None] * random(*shape, seed=seed, dtype=torch.float64) * slope[1]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("shape", [(9, 9), (6, 14), (14, 6)])
def test_step_is_the_formula(build, random, relative, shape, every):
    gradients = [sloped(random, *shape, seed=step) for step in range(8)]
    steps = directions(build, gradients, refresh_steps=every)
    reference = Source(shape, every=every, hold=1e-4, floor=1e-4)
    wide = {max(shape)} if shape[0] != shape[1] else set()
    for count, (step, gradient) in enumerate(zip(steps, gradients, strict=True)):
        expected = reference.direction(gradient)
        if count == 0 and wide:  # a long side has directions without a gradient, of which eigh is free to choose any
            state_of = optimizer_bases(build, gradient)
            reference.bases = state_of
        assert relative(step, expected) < 1e-6, count


def optimizer_bases(build, gradient: Tensor) -> list[Tensor]:
    """The first bases, after a check that they are the means' eigenvectors."""
    p = nn.Parameter(torch.zeros_like(gradient))
    optimizer = build("soap_muon", [p], lr=0.0)
    p.grad = gradient
    optimizer.step()
    bases = [optimizer.state[p][f"{side}_basis"].clone() for side in ("row", "column")]
    for basis, outer in zip(bases, (gradient @ gradient.T, gradient.T @ gradient), strict=True):
        turned = basis.T @ outer @ basis
        assert (turned - turned.diagonal().diag()).norm() < 1e-8 * turned.norm()
        assert (turned.diagonal().diff() < 1e-8 * turned.norm()).all()
        assert (basis.T @ basis - torch.eye(len(basis), dtype=basis.dtype)).abs().max() < 1e-8
    return bases


def test_what_differs_from_the_source_is_small(build, random):
    """Square and of full rank, where the source is determined: the same direction to some per mille."""
    gradients = [sloped(random, 16, 16, seed=step) for step in range(12)]
    reference = Source((16, 16))
    for step, gradient in zip(directions(build, gradients), gradients, strict=True):
        expected = reference.direction(gradient)
        assert torch.cosine_similarity(step.flatten(), expected.flatten(), dim=0) > 0.995


@pytest.mark.parametrize("shape", [(48, 6), (6, 48), (16, 16)])
def test_rounding_does_not_choose_the_step(build, random, relative, shape):
    """Gradients that differ by rounding give steps that differ by little, for oblong matrices too."""
    gradients = [random(*shape, seed=step) for step in range(20)]
    noisy = [g * (1 + 1e-7 * random(*shape, seed=99 + step)) for step, g in enumerate(gradients)]
    exact = directions(build, gradients)
    assert max(relative(a, b) for a, b in zip(directions(build, noisy), exact, strict=True)) < 1e-3
    wide = directions(build, [g.double() for g in gradients])
    assert max(relative(a, b) for a, b in zip(exact, wide, strict=True)) < 1e-3


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_bases_become_the_eigenvectors(build, random, shape):
    p = nn.Parameter(torch.zeros(shape))
    optimizer = build("soap_muon", [p], refresh_steps=1, beta2=0.9, lr=0.0)
    p.grad = torch.zeros(shape)  # as that of what feeds a map that starts at zero
    optimizer.step()
    for side, size in zip(("row", "column"), shape, strict=True):
        basis = optimizer.state[p][f"{side}_basis"]
        torch.testing.assert_close(basis, torch.eye(size, dtype=basis.dtype), rtol=0, atol=1e-12)
    # A fixed gradient with well separated singular values.
    gradient = random(*shape) * torch.logspace(0, 2, shape[0])[:, None]
    for _ in range(60):
        p.grad = gradient
        optimizer.step()
    state = optimizer.state[p]
    for side in ("row", "column"):
        basis, mean = state[f"{side}_basis"], state[f"{side}_mean"]
        assert (basis.T @ basis - torch.eye(len(basis))).abs().max() < 1e-12
        turned = basis.T @ mean @ basis
        off = turned - turned.diagonal().diag()
        assert off.norm() < 0.02 * turned.norm()


def test_with_one_side_only_the_shorter_has_a_basis(build, random):
    for shape, side in (((12, 5), "column"), ((5, 12), "row"), ((6, 6), "column")):
        p = nn.Parameter(torch.zeros(shape))
        optimizer = build("soap_muon", [p], sides="short")
        p.grad = random(*shape)
        optimizer.step()
        assert {key for key in optimizer.state[p] if key.endswith("basis")} == {f"{side}_basis"}


def test_step_is_orthogonal(track, random):
    values = track(
        "soap_muon", torch.zeros(20, 8), [random(20, 8, seed=k) for k in range(3)], lr=1.0, scaling="none", steps=8
    )
    for before, value in pairwise(values):
        assert torch.linalg.svdvals(value - before).tolist() == pytest.approx([1.0] * 8, abs=0.01)


def test_the_first_step_is_muons(track, random):
    gradient = random(10, 6)
    runs = [track(name, torch.zeros(10, 6), [gradient], lr=1.0)[0] for name in ("muon", "soap_muon")]
    assert torch.equal(*runs)


def test_a_matrix_that_joins_later_starts_as_one_from_the_start(build, random, relative):
    """Its first step is Muon's and its first bases its own, whatever its neighbours in the bank are at."""
    together, alone = [nn.Parameter(torch.zeros(6, 4)) for _ in range(2)], nn.Parameter(torch.zeros(6, 4))
    shared, single = build("soap_muon", together), build("soap_muon", [alone])
    for step in range(6):
        together[0].grad = random(6, 4, seed=50 + step)
        if step >= 2:
            together[1].grad, alone.grad = random(6, 4, seed=step), random(6, 4, seed=step)
            single.step()
        shared.step()
        assert not alone.any() or relative(together[1], alone) < 1e-5
    assert math.isfinite(together[0].norm().item())
