"""How fast bfloat16 is: measured the same way whoever asks, wherever."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ramen import device
from ramen.errors import ConfigError


def test_bfloat16_is_measured_on_one_thread_and_outside_what_is_going_on(monkeypatch):
    seen = []

    def rate(dtype: torch.dtype, size: int) -> float:
        product = torch.ones(size, size, dtype=dtype) @ torch.ones(size, size, dtype=dtype)
        seen.append((torch.get_num_threads(), product.dtype == dtype, type(product)))
        return 3.0 if dtype == torch.bfloat16 else 2.0

    monkeypatch.setattr(device, "_matmul_rate", rate)
    before, numbers = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
            assert device.bfloat16_speed.__wrapped__() == 1.5
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {(1, True, torch.Tensor)}
    assert counter.get_total_flops() == 0
    assert torch.equal(torch.get_rng_state(), numbers)


def test_it_is_a_ratio_of_rates():
    assert 0 < device.bfloat16_speed() < 100


@pytest.mark.parametrize(
    "name", ["mps", "tpu", "hpu", "xla", "meta", "cpu:3", "cuda:", "cuda:x", "cuda:999", "", "cuda:9999"]
)
def test_another_device_is_refused_in_a_line(name):
    with pytest.raises(
        ConfigError, match=rf"^device: not (supported|usable here), got '{name}'.*; allowed are "
    ) as error:
        device.select_device(name)
    assert len(str(error.value)) < 200
