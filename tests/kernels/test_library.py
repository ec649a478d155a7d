"""The C kernels against their torch twins, and what happens where they cannot be had."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ramen.kernels.cpu import library as kernel
from ramen.ops.activation import relu_squared
from ramen.ops.cross_entropy import IGNORED, linear_cross_entropy
from ramen.ops.rms_norm import rms_norm
from ramen.ops.softcap import Softcap

here = pytest.mark.skipif(kernel.status() != "C kernels", reason=kernel.status())
CAPS = {
    "none": None,
    "sigmoid": Softcap("sigmoid", limit=23.0, shift=5.0, scale=7.5),
    "tanh": Softcap("tanh", limit=30.0, shift=0.0, scale=30.0),
}
SHAPES = [(5, 7, 48), (3, 1), (2, 3, 2, 33), (0, 16), (1, 16)]


@pytest.fixture
def twins(monkeypatch):
    """twins(function, *inputs): its value with kernels, and by plain torch."""

    def both(function, *inputs):
        first = function(*inputs)
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "_libraries", lambda dtype: ({}, "not now"))
            return first, function(*inputs)

    return both


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """An empty cache folder, and nothing loaded yet; what was loaded before comes back afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel._libraries.cache_clear()
    yield tmp_path / "ramen"
    monkeypatch.undo()
    kernel._libraries.cache_clear()


def values(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_gradient(function):
    def run(x, grad):
        x = x.clone().requires_grad_()
        y = function(x)
        y.backward(grad)
        return y.detach(), x.grad

    return run


def head(dtype, softcap, tokens=23, rows=48, vocabulary=37):
    """Loss and both gradients of a small head, as a function of x and weight."""
    targets = torch.randint(vocabulary, (tokens,), generator=torch.Generator().manual_seed(1))
    targets[[0, 7]] = IGNORED

    def run(x, weight):
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = linear_cross_entropy(x, weight, targets, vocabulary, softcap, 9)
        (loss * 0.7).backward()
        return loss.detach(), x.grad, weight.grad

    return run, (values(tokens, 12), values(rows, 12, seed=2))


def close(pairs, tolerance):
    for mine, plain in zip(*pairs, strict=True):
        assert mine.dtype == plain.dtype and mine.shape == plain.shape
        torch.testing.assert_close(mine, plain, rtol=tolerance, atol=tolerance)


@here
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm_equals_its_twin(twins, shape):
    close(twins(with_gradient(rms_norm), values(*shape) * 3, values(*shape, seed=1)), 2e-6)


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 5000)], ids=str)
def test_relu_squared_equals_its_twin(twins, shape, dtype):
    inputs = values(*shape, dtype=dtype), values(*shape, dtype=dtype, seed=1)
    close(twins(with_gradient(relu_squared), *inputs), 1e-6 if dtype == torch.float32 else 2e-2)


@here
def test_rounding_to_bfloat16_is_torchs(twins):
    """To the bit: squares of 8 binary digits are now and then halfway between two numbers, and go to the even one."""
    x = (torch.arange(128.0, 256.0) / 128).bfloat16()
    assert torch.equal(*twins(relu_squared, x))
    assert torch.equal(relu_squared(x), x.float().square().bfloat16())


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("softcap", CAPS.values(), ids=CAPS)
def test_cross_entropy_equals_its_twin(twins, softcap, dtype):
    run, inputs = head(dtype, softcap)
    mine, plain = twins(run, *inputs)
    for a, b in zip(mine, plain, strict=True):
        assert (a - b).norm() <= (2e-6 if dtype == torch.float32 else 1e-2) * b.norm()


@here
@pytest.mark.parametrize("function", [rms_norm, relu_squared], ids=lambda f: f.__name__)
def test_strides_and_broadcast_gradients(twins, function):
    x = values(6, 5, 4).permute(2, 0, 1)
    close(twins(with_gradient(function), x, torch.ones(()).expand(4, 6, 5)), 2e-6)


@here
def test_nothing_depends_on_the_run_and_only_matrix_products_on_the_number_of_threads():
    x, grad = values(700, 96), values(700, 96, seed=1)
    run, inputs = head(torch.float32, CAPS["sigmoid"])
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            found.append([*with_gradient(rms_norm)(x, grad), *with_gradient(relu_squared)(x, grad), *run(*inputs)])
    finally:
        torch.set_num_threads(threads)
    ours = len(found[0]) - 2  # the head's gradients are of matrix products: torch's, whose sums depend on the threads
    for other, same in ((found[1], ours), (found[2], ours + 2)):
        assert all(torch.equal(a, b) for a, b in zip(found[0][:same], other[:same], strict=True))


@here
def test_what_is_not_a_number_is_not_hidden():
    x = torch.ones(2, 32)
    x[0, 3] = float("nan")
    assert rms_norm(x)[0].isnan().all() and rms_norm(x)[1].isfinite().all()
    assert relu_squared(x).isnan().sum() == 1
    loss = linear_cross_entropy(x, values(9, 32), torch.tensor([1, 2]), 9, CAPS["sigmoid"])
    assert loss.isnan()


@here
@pytest.mark.parametrize("target", [-1, 9, 2**40])
def test_a_target_out_of_range_is_refused(target):
    with pytest.raises(IndexError, match="target"):
        linear_cross_entropy(values(2, 8), values(12, 8), torch.tensor([1, target]), 9, None)


@here
def test_a_gradient_is_given_once_and_only_once():
    """It is made in place: a second pass over the same graph may not find the first one's leavings."""
    x = values(3, 8).requires_grad_()
    loss = linear_cross_entropy(x, values(9, 8), torch.tensor([1, 2, 3]), 9, None)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@here
def test_other_tensors_are_torchs():
    assert kernel.kernels("rms_norm", torch.ones(2))
    assert kernel.kernels("rms_norm", torch.ones(2, dtype=torch.float64)) is None
    assert kernel.kernels("rms_norm", torch.ones(2, device="meta")) is None
    assert kernel.kernels("rms_norm", torch.ones(2), torch.ones(2, device="meta")) is None
    assert rms_norm(torch.ones(2, 4, device="meta")).shape == (2, 4)


@here
def test_plain_torch_serves_to_the_end_of_the_outer_block():
    with kernel.plain_torch():
        with kernel.plain_torch():
            pass
        assert kernel.kernels("rms_norm", torch.ones(2)) is None
    assert kernel.kernels("rms_norm", torch.ones(2))


@here
def test_a_kernel_refuses_strides():
    library = kernel.kernels("rms_norm", torch.ones(2))
    with pytest.raises(ValueError, match="contiguous"):
        library.rms_norm_forward(torch.ones(4, 4).T, torch.ones(4, 4), torch.ones(4), 4, 4)


@here
def test_the_compiler_sees_the_twin():
    """torch.compile's graph holds torch operations only, and gives the same numbers."""
    x = values(4, 16)
    for function in (rms_norm, relu_squared):
        traced = torch.compile(function, fullgraph=True, backend="eager")
        torch.testing.assert_close(traced(x), function(x), rtol=1e-6, atol=1e-6)


def test_a_sketch_has_shapes_and_does_no_work():
    with FakeTensorMode():
        x = torch.empty(4, 16, requires_grad=True)
        y = relu_squared(rms_norm(x))
        y.sum().backward()
        assert y.shape == x.grad.shape == (4, 16)


@here
def test_libraries_are_compiled_once_and_kept(anew, monkeypatch):
    assert kernel.kernels("rms_norm", torch.ones(2))
    kept = sorted(path.name for path in anew.iterdir())
    assert [name.split("-")[0] for name in kept] == sorted(kernel.SOURCES)
    kernel._libraries.cache_clear()
    monkeypatch.setattr(kernel.subprocess, "Popen", None)  # would fail if it were asked again
    assert kernel.kernels("rms_norm", torch.ones(2))
    assert sorted(path.name for path in anew.iterdir()) == kept


def test_a_library_is_of_its_source_its_header_its_command_and_the_processor(tmp_path, monkeypatch):
    """A stale one would go on serving after a change."""
    source, header, command = tmp_path / "one.c", tmp_path / "kernel.h", ["gcc", "-O3"]
    source.write_text("a")
    header.write_text("b")
    found = [kernel._fingerprint(source, command), kernel._fingerprint(source, [*command, "-DBFLOAT16"])]
    source.write_text("c")
    found.append(kernel._fingerprint(source, command))
    header.write_text("d")
    found.append(kernel._fingerprint(source, command))
    monkeypatch.setattr(kernel, "_processor", lambda: "another")
    found.append(kernel._fingerprint(source, command))
    assert len(set(found)) == 5


@here
def test_a_broken_library_is_told_and_made_anew(anew, monkeypatch, caplog):
    monkeypatch.setattr(kernel, "_fingerprint", lambda source, command: "broken")
    anew.mkdir()
    (anew / "rms_norm-broken.so").write_bytes(b"not a library")
    assert kernel.status().startswith("plain torch, which is slower (")
    assert "CPU kernels" in caplog.text
    kernel._libraries.cache_clear()
    assert kernel.status() == "C kernels"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PATH", "", "no C compiler"),
        ("CC", "false", "failed on adamw.c"),
        ("RAMEN_KERNELS", "off", "RAMEN_KERNELS=off"),
    ],
)
def test_without_a_compiler_torch_serves(anew, monkeypatch, name, value, told):
    expected = rms_norm(values(3, 8).double())
    monkeypatch.setenv(name, value)
    kernel._libraries.cache_clear()
    assert kernel.kernels("rms_norm", torch.ones(2)) is None
    assert told in kernel.status()
    torch.testing.assert_close(rms_norm(values(3, 8)).double(), expected, rtol=1e-6, atol=1e-6)


def test_a_cache_folder_that_cannot_be_written_is_replaced(anew, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = kernel.cache_folder()
    assert folder.is_dir() and tmp_path not in folder.parents
    folder.rmdir()
