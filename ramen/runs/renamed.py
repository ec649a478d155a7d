"""Configs of older run folders in today's names. Who renames a class or key that a config can name adds a line here."""

import re
from typing import Any

TARGETS = {  # regular expressions over a whole `_target_`, in the order in which they apply
    r"ramen\.(attention|embedding|linear|mlp|position|residual|stream|value_embedding)\.(.+)": r"ramen.nn.\1.\2",  # 0.1
    r"ramen\.model\.(.+)": r"ramen.nn.\1",
    r"ramen\.routing\.(.+)": r"ramen.build.param_groups.\1",
    r"ramen\.trainer\.plan\.Plan": "ramen.training.config.TrainerConfig",
    r"ramen\.trainer\.(.+)": r"ramen.training.\1",
}
KEYS = {"ahead_schedule": "mtp_schedule", "ahead_weights": "mtp_weights"}  # 0.1
_ROWS: dict[str, Any] = {"batching": "documents", "validation": "spread"}
# `_target_` -> keys that came after 0.1, with the values at which it computes what it did
ADDED: dict[str, dict[str, Any]] = {
    r"ramen\.nn\.gpt\.GPT": {"embedding_norm": True},
    r"ramen\.nn\.linear\.dense\.Dense": {"init": "uniform"},
    r"ramen\.nn\.mlp\.(default|ff|residual_normed)\.\w+": {"output_lr_scale": 1.0},
    r"ramen\.data\.pretokenized\.Pretokenized": _ROWS,
    r"ramen\.data\.(hub|shakespeare|text)\.\w+": {**_ROWS, "holdout": "hash", "workers": 1},
}
SECTIONS: dict[str, Any] = {"norm": {"_target_": "ramen.nn.norm.rms.RMS"}}  # that came after 0.1, likewise


def current_names(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the names that its components and keys have today, and with what came later; {} stays empty."""
    return SECTIONS | _current_node(config) if config else {}


def _current_node(node: dict[str, Any]) -> dict[str, Any]:
    node = {KEYS.get(key, key): _current_value(key, value) for key, value in node.items()}
    target = str(node.get("_target_"))
    for component, keys in ADDED.items():
        if re.fullmatch(component, target):
            node = keys | node
    return node


def _current_value(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _current_node(value)
    if key == "_target_" and isinstance(value, str):
        for old, new in TARGETS.items():
            value = re.sub(f"^{old}$", new, value)
    return value
