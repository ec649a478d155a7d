"""Any value for any key of any option: one clear message that names the place, or a run that can be made."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramen.build.run import validate
from ramen.config.kinds import KINDS
from ramen.config.registry import options
from ramen.errors import RamenError

CASES = int(os.environ.get("FUZZ_CASES", "40"))  # a campaign is FUZZ_CASES=5000 pytest tests/contract/test_fuzz.py
SMALL = (
    "model.layers=2", "model.dim=16", "model.heads=2", "data.sequence_length=64", "trainer.batch_tokens=256",
    "trainer.micro_batch_tokens=256", "device=cpu", "precision=fp32", "threads=1",
)  # fmt: skip
OPTIONS = [(kind, name) for kind in KINDS for name, found in options(kind).items() if found.target]
SPECIAL = st.sampled_from(
    [None, True, False, "", "auto", "off", "\0", "ünï", "../../x", "/etc/passwd", "1e-3", "${x}", "x" * 3000, [], {}, {"": None},
     {"_target_": "os.system"}, {"_target_": "ramen.schedule.linear.linear"}, 10**18, -(10**18), 10**30, math.nan, math.inf,
     1e300, 5e-324]
)  # fmt: skip
ANYTHING = (
    SPECIAL
    | st.integers(-3, 3000)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers() | st.none(), max_size=3)
)


def keys(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in node.items():
        yield (*path, key)
        if isinstance(value, Mapping):
            yield from keys(value, (*path, key))


def near(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type: what people try."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int | float):
        factors = st.sampled_from([-1, 0, 0.5, 2, 3, 10, 100, 0.01])
        return factors.map(lambda factor: type(value)(value * factor)) | st.just(value + 1)
    return ANYTHING


@settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_a_config_is_told_what_is_wrong_or_can_be_made(
    option: Callable[..., dict[str, Any]], data: st.DataObject
) -> None:
    kind, name = data.draw(st.sampled_from(OPTIONS))
    pytest.importorskip(str(options(kind)[name].target).partition(".")[0])
    config = option(kind, name, *SMALL)
    own = [path for path in keys(config) if path[0] == kind]
    path = data.draw(st.sampled_from(own) | st.sampled_from(list(keys(config))))
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = data.draw(near(node[path[-1]]) | ANYTHING)
    try:
        validated = validate(config)
    except RamenError as error:
        told = str(error)
        assert told.strip() and "Traceback" not in told and len(told) < 10_000
        assert any(part in told for part in path) or kind == "data", told
    else:
        assert 0 < validated.dry_run.costs["parameters"] < math.inf
        assert validated.dry_run.trainer.micro_rows >= 1
