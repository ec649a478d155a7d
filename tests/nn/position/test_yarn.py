"""YaRN: the numbers of a change of window, that the path matters, and that a checkpoint holds where it led."""

import itertools
import math

import pytest
import torch

from ramen.nn.position.half_rope import HalfRoPE
from ramen.nn.position.yarn import YaRN

WIDTH, LENGTH = 64, 40
DEFAULTS = dict(base=1024.0, original_tokens=None, slow_turns=1.0, fast_turns=32.0, sharpening=0.2)


def make(**changed):
    return YaRN(WIDTH, LENGTH, WIDTH, **(DEFAULTS | changed))


def test_starts_as_half_rope():
    assert torch.equal(make().table, HalfRoPE(WIDTH, LENGTH, WIDTH, base=1024.0).table)
    assert make().gain == 1.0


def test_a_doubled_window_stretches_slow_pairs_and_keeps_fast_ones():
    """Head width 64, blocks of 128: 3 -> 6 of them, worked out by hand."""
    position = make()
    before = position.frequencies.clone()
    position.rescale(3 * 128, 6 * 128)
    ratio = position.frequencies[:16] / before[:16]
    turns = 384 * before[:16] / (2 * math.pi)
    assert turns[:2].tolist() == pytest.approx([61.1, 38.5], abs=0.1)
    assert ratio[:2].tolist() == [1.0, 1.0]
    assert ratio[2:4].tolist() == pytest.approx([0.8751, 0.7303], abs=1e-4)
    assert (ratio[9:] == 0.5).all()
    assert not position.frequencies[16:].any()
    assert 0.1 * position.gain == pytest.approx(0.1138629, abs=1e-7)


def test_the_table_is_of_the_new_frequencies():
    position = make()
    position.rescale(384, 768)
    angles = torch.outer(torch.arange(LENGTH, dtype=torch.float64), position.frequencies)
    torch.testing.assert_close(position.table, torch.stack((angles.cos(), angles.sin()), -1).float())


def test_the_path_matters():
    direct, stepwise = make(), make()
    direct.rescale(3 * 128, 6 * 128)
    stepwise.rescale(3 * 128, 4 * 128)
    stepwise.rescale(4 * 128, 6 * 128)
    assert (direct.frequencies - stepwise.frequencies).abs().max().item() == pytest.approx(0.018, abs=1e-3)
    assert 0.1 * stepwise.gain == pytest.approx(0.11433, abs=1e-5)


def test_no_change_of_window_changes_nothing():
    position = make()
    position.rescale(384, 384)
    assert torch.equal(position.table, make().table) and position.gain == 1.0


@pytest.mark.parametrize("windows", [(128, 256, 1024), (64, 65), (512, 2048)])
def test_frequencies_never_rise_as_the_window_grows(windows):
    position = make()
    for old, new in itertools.pairwise(windows):
        before = position.frequencies.clone()
        position.rescale(old, new)
        assert (position.frequencies <= before).all()
        assert (position.frequencies >= before * old / new - 1e-12).all()


def test_a_checkpoint_holds_where_the_path_led():
    position, restored = make(), make()
    for old, new in ((384, 512), (512, 768)):
        position.rescale(old, new)
    restored.load_state_dict(position.state_dict())
    assert torch.equal(restored.table, position.table) and restored.gain == position.gain != 1.0


def test_follows_the_long_window_and_not_the_short_one(build_gpt):
    windows = ("attention.pattern=LS", "attention.long_window_tokens=8", "attention.short_window_tokens=2")
    model = build_gpt("position=yarn", "position.original_tokens=null", "model.heads=1", *windows)
    expected = YaRN(16, 32, 16, **DEFAULTS)
    for long, short in ((8, 3), (16, 3), (16, 8), (24, 12)):
        old = model.windows[0]
        model.move_windows((long, short))
        expected.rescale(old, long)
        assert torch.equal(model.position.frequencies, expected.frequencies) and model.position.gain == expected.gain


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slow_turns": 33.0}, r"slow_turns must be in \[0, fast_turns\), got 33.0 and 32.0"),
        ({"slow_turns": 32.0}, r"slow_turns must be in \[0, fast_turns\), got 32.0 and 32.0"),
        ({"sharpening": -0.1}, r"sharpening must be >= 0, got -0.1"),
        ({"original_tokens": 0}, r"original_tokens must be >= 1 or null, got 0"),
        ({"base": 1.0}, r"base must be > 1, got 1.0"),
    ],
)
def test_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        make(**changed)


def test_a_start_forgets_what_was_before():
    once, again = make(original_tokens=128), make(original_tokens=128)
    for window in (512, 64, 256):
        again.start(window)
    once.start(256)
    assert torch.equal(again.frequencies, once.frequencies) and torch.equal(again.table, once.table)
    assert again.gain == once.gain == again.saved_gain > 1


def test_starts_stretched_from_the_window_it_is_made_for(build_gpt):
    model = build_gpt("position=yarn", "position.original_tokens=8", "model.heads=1", "attention.long_window_tokens=20")
    expected = YaRN(16, 32, 16, **(DEFAULTS))
    expected.rescale(8, 20)
    assert torch.equal(model.position.frequencies, expected.frequencies) and model.position.gain == expected.gain > 1
    unlimited = build_gpt("position=yarn", "position.original_tokens=8", "model.heads=1", length=32)
    assert unlimited.position.gain == pytest.approx(1 + 0.2 * math.log(32 / 8))
