"""Polar Express: published coefficients, singular-value bands, equivariance, both forms, batches."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ramen.kernels import plain_torch
from ramen.ops.polar_express import coefficients, polar_express, schedule

PUBLISHED_FIVE = (  # modded-nanogpt and others; safety 1.02, cushion 0.02
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
PUBLISHED_EIGHT = (  # arXiv 2505.16932, before its safety factor
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
SHAPES = [(256, 256), (1024, 256), (256, 1024), (48, 48), (16, 40), (7, 3)]
BANDS = {5: (0.858, 1.1415), 6: (0.9965, 1.002), 8: (0.99999, 1.00001)}


@pytest.fixture(params=["plain", "gram"])
def form(request):
    """The steps as written, and what serves in their place where it can."""
    with plain_torch("any") if request.param == "plain" else nullcontext():
        yield


def spectrum(m: int, n: int, smallest: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A float64 matrix with log-spaced singular values 1 ... smallest, and its singular vectors."""
    generator = torch.Generator().manual_seed(m * n)
    s = min(m, n)
    u = torch.linalg.qr(torch.randn(m, s, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(n, s, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, torch.tensor(smallest).log10().item(), s, dtype=torch.float64)
    return (u * values) @ v.T, u, v


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relative_error(x: torch.Tensor, reference: torch.Tensor) -> float:
    x, reference = x.double(), reference.double()
    return (torch.linalg.vector_norm(x - reference) / torch.linalg.vector_norm(reference)).item()


def test_coefficients_are_the_published_ones():
    assert torch.tensor(schedule(5)).allclose(torch.tensor(PUBLISHED_FIVE), rtol=1e-12, atol=0)
    computed = coefficients(8, lower=1e-3, safety=1.0, cushion=0.02407327424182761)
    assert torch.tensor(computed).allclose(torch.tensor(PUBLISHED_EIGHT), rtol=1e-8, atol=0)


@pytest.mark.parametrize("steps", range(1, 13))
def test_schedule_widens_nothing(steps):
    """More steps, a narrower image of [1e-3, 1]; a longer schedule is not the shorter one continued."""
    x = torch.logspace(-3, 0, 20001, dtype=torch.float64) / 1.02

    def worst(k):
        y = x
        for a, b, c in schedule(k):
            y = a * y + b * y**3 + c * y**5
        return (y - 1).abs().max().item()

    assert worst(steps + 1) <= worst(steps) + 1e-12
    assert len(schedule(steps)) == steps
    if steps >= 7:
        assert worst(steps) < 2e-5


@pytest.mark.parametrize("lower", [0.9999999, 0.9999, 0.9991, 0.999, 0.99, 0.5, 1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("cushion", [0.0, 0.02, 0.5])
def test_coefficients_exist_for_any_interval(lower, cushion):
    assert torch.tensor(coefficients(30, lower=lower, safety=1.01, cushion=cushion)).isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("steps", [5, 6, 8])
def test_singular_values_in_band(shape, steps):
    x, u, v = spectrum(*shape, smallest=1e-2)
    low, high = BANDS[steps]
    for dtype in (torch.float64, torch.float32):
        core = u.T @ polar_express(x, steps=steps, dtype=dtype) @ v
        values = core.diagonal()
        assert low <= values.min() and values.max() <= high
        assert relative_error(torch.diag(values), core) < (1e-10 if dtype == torch.float64 else 1e-4)  # vectors kept
    values = torch.linalg.svdvals(polar_express(x, steps=steps, dtype=torch.bfloat16))
    assert low - 0.008 <= values.min() and values.max() <= high + 0.008
    values = torch.linalg.svdvals(polar_express(x, steps=steps, dtype=torch.float16))
    assert low - 0.003 <= values.min() and values.max() <= high + 0.003


def test_known_map_of_small_singular_values():
    x, u, v = spectrum(64, 64, smallest=1e-5)
    values = torch.linalg.svdvals(x) / torch.linalg.matrix_norm(x) / 1.02
    for a, b, c in schedule(5):
        values = a * values + b * values**3 + c * values**5
    core = u.T @ polar_express(x, dtype=torch.float64) @ v
    assert torch.allclose(core.diagonal(), values, atol=1e-10)


@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (32, 128)])
@pytest.mark.usefixtures("form")
def test_many_steps_are_the_svd(shape):
    x = gaussian(3, *shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    assert relative_error(polar_express(x, steps=12, dtype=None), u @ vh) < 1e-6


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_equivariance(dtype):
    x = gaussian(96, 24)
    q, _ = torch.linalg.qr(gaussian(96, 96, seed=1))
    y = polar_express(x, dtype=dtype)
    tolerance = 5e-5 if dtype is None else 4e-2
    assert torch.equal(polar_express(-x, dtype=dtype), -y)
    assert relative_error(polar_express(x.mT, dtype=dtype), y.mT) < tolerance
    assert relative_error(polar_express(q @ x, dtype=dtype), q @ y) < tolerance
    r, _ = torch.linalg.qr(gaussian(24, 24, seed=2))
    assert relative_error(polar_express(x @ r, dtype=dtype), y @ r) < tolerance


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(32, 32), (96, 24), (24, 96), (1, 9), (9, 1), (1, 1)])
def test_zero_and_rank_one(shape, dtype):
    for steps in (1, 5, 8, 12):
        zero = torch.zeros(2, *shape)
        assert torch.equal(polar_express(zero, steps=steps, dtype=dtype), zero)
    # signs, so that the matrix is of rank one in every type: rounding noise is a singular value like any other
    x = gaussian(shape[0], 1).sign() @ gaussian(1, shape[1], seed=1).sign()
    for steps, tolerance in ((5, 0.17), (8, 0.02), (12, 0.02)):
        y = polar_express(x, steps=steps, dtype=dtype)
        assert relative_error(y, x / torch.linalg.matrix_norm(x)) < tolerance
    x = gaussian(shape[0], 1, dtype=torch.float64) @ gaussian(1, shape[1], seed=1, dtype=torch.float64)
    for steps in (8, 12):
        y = polar_express(x, steps=steps, dtype=torch.float64)
        assert relative_error(y, x / torch.linalg.matrix_norm(x)) < 1e-6


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(19, 18), (20, 20), (39, 40)])
def test_no_singular_value_of_a_gaussian_is_left_above_the_band(shape, dtype):
    """Near square some are tiny, and of those a Gram matrix in 16 bits knows least."""
    x = gaussian(200, *shape)
    assert torch.linalg.matrix_norm(polar_express(x, dtype=dtype).float(), 2).max() < 1.18


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256)])
def test_rank_deficient_and_steep_spectra_stay_bounded(shape, dtype):
    low_rank = gaussian(shape[0], 5) @ gaussian(5, shape[1], seed=1)
    for x in (low_rank, spectrum(*shape, smallest=1e-4)[0], spectrum(*shape, smallest=1e-12)[0]):
        for steps, bound in ((5, 1.17), (6, 1.02), (8, 1.02), (12, 1.02)):
            y = polar_express(x, steps=steps, dtype=dtype)
            assert torch.linalg.matrix_norm(y, 2) < bound


@settings(deadline=None, max_examples=40)
@example(exponent=-30, m=12, n=40, dtype=None)
@example(exponent=30, m=40, n=12, dtype=torch.bfloat16)
@given(
    exponent=st.integers(-30, 30),
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, None]),
)
def test_scale_invariance(exponent, m, n, dtype):
    x = gaussian(m, n, seed=m * 41 + n)
    y = polar_express(x, dtype=dtype)
    # a power of two changes no rounding at all; 10 ** e rounds the input
    assert torch.equal(polar_express(x * 2.0 ** (3 * exponent), dtype=dtype), y)
    again = polar_express(x * 10.0**exponent, dtype=dtype)
    assert relative_error(again, y) < (1e-2 if dtype is None else 0.1)
    assert again.isfinite().all() and torch.linalg.matrix_norm(again, 2) < 1.2


@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (32, 128), (512, 300)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.usefixtures("form")
def test_a_matrix_does_not_see_its_neighbours(shape, dtype):
    x = gaussian(2, 5, *shape)
    before = x.clone()
    batched = polar_express(x, dtype=dtype)
    looped = torch.stack([polar_express(one, dtype=dtype) for one in x.flatten(0, 1)]).view_as(x)
    assert relative_error(batched, looped) < (3e-2 if dtype == torch.bfloat16 else 1e-5)
    assert torch.equal(polar_express(x, dtype=dtype), batched)  # deterministic
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_dtypes_and_strides(dtype):
    x = gaussian(2, 3, 12, 20, dtype=dtype)
    y = polar_express(x)
    assert y.shape == x.shape and y.dtype == dtype and y.isfinite().all()
    assert torch.equal(polar_express(x.mT.contiguous().mT), y)
    for empty in ((0, 4, 4), (2, 0, 4), (2, 4, 0)):
        assert polar_express(torch.empty(empty, dtype=dtype)).shape == empty


@pytest.mark.parametrize(
    ("shape", "dtype", "gram"),
    [((64, 32), None, True), ((32, 64), None, True), ((63, 32), None, False), ((64, 32), torch.bfloat16, False)],
)
def test_the_gram_form_serves_oblong_matrices_in_full_precision(shape, dtype, gram):
    x = gaussian(*shape)
    with plain_torch("any"):
        steps_as_written = polar_express(x, dtype=dtype)
    assert torch.equal(polar_express(x, dtype=dtype), steps_as_written) != gram


@pytest.mark.parametrize("exponent", [-30, -3, 0, 30])
def test_the_kernel_of_the_norm_equals_torch(exponent):
    x = torch.cat([gaussian(3, 70, 133), torch.zeros(1, 70, 133)]) * 10.0**exponent
    x.flatten(1)[:, 4094:4099] *= 50  # where its blocks meet
    with plain_torch():
        expected = polar_express(x, dtype=None)
    assert relative_error(polar_express(x, dtype=None), expected) < 1e-5
    x[0, 3, 4] = float("nan")
    assert polar_express(x, dtype=None)[0].isnan().all() and polar_express(x, dtype=None)[1:].isfinite().all()
