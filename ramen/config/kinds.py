"""The one list of kinds: every folder of conf/ but hydra's, in the order of the defaults list of conf/config.yaml.

From it follow the sections of a config, what may stand in each, the model's parts, what a report compares by, the README's
table and the tests. A new kind of part is a line here, a line in conf/config.yaml, and its use in ramen/nn.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """A folder of options: conf/<kind>/<name>.yaml builds ramen/.../<kind>/<name>.py.

    Without a package its options build nothing: they choose others and set values.
    """

    package: str | None = None  # where its components live
    runtime: tuple[str, ...] = ()  # passed to a component by position when it is built (a schedule: when it is called)
    part: bool = False  # of the model, which gets a factory of it
    report: Literal["method", "context", "other"] = "other"  # context is compared when no method differs; other never
    sections: tuple[str, ...] = ()  # where a config holds one; empty: under the kind's name


def _part(package: str, *runtime: str) -> Kind:
    return Kind(package, runtime, part=True, report="method")


KINDS = {
    "optimizer": Kind("ramen.optimizer", ("params",), report="method"),
    "mlp": _part("ramen.nn.mlp", "dim", "linear"),
    "attention": _part("ramen.nn.attention", "dim", "heads", "linear", "layer", "layers", "turning"),
    "norm": _part("ramen.nn.norm", "dim"),
    "residual": _part("ramen.nn.residual", "dim", "sublayer"),
    "position": _part("ramen.nn.position", "head_width", "sequence_length", "dim"),
    "embedding": _part("ramen.nn.embedding", "vocabulary", "dim"),
    "value_embedding": _part("ramen.nn.value_embedding", "vocabulary", "dim", "heads", "layers"),
    "stream": _part("ramen.nn.stream", "dim", "layers"),
    "linear": _part("ramen.nn.linear", "rows", "columns", "stds"),
    "model": Kind("ramen.nn.gpt", ("data", "factories"), report="context"),
    "schedule": Kind(
        "ramen.schedule",
        ("progress",),
        report="context",
        sections=("schedule", "batch_schedule", "long_window_schedule", "short_window_schedule", "mtp_schedule"),
    ),
    "auxiliary": Kind("ramen.optimizer", ("params",), report="context"),
    "routing": Kind("ramen.build.param_groups", report="context"),
    "data": Kind("ramen.data"),
    "trainer": Kind("ramen.training.config", ("sequence_length",)),
    "diagnostics": Kind("ramen.training.diagnostics"),
    "logger": Kind("ramen.logger"),
    "experiment": Kind(),
    "sweep": Kind(),
    "debug": Kind(),
    "tuned": Kind(),  # conf/tuned/<experiment>/<optimizer>.yaml, chosen by these two
}
PARTS = tuple(name for name, kind in KINDS.items() if kind.part)
TUNED = "tuned"
COMPOSITIONS = tuple(name for name, kind in KINDS.items() if kind.package is None)
SECTIONS = {section: name for name, kind in KINDS.items() if kind.package for section in kind.sections or (name,)}
