"""The one table of components that older run folders name otherwise. Who renames a class that a config can name adds a line.

Keys are regular expressions over a whole `_target_`, in the order in which they apply.
"""

import re
from typing import Any

RENAMED = {
    r"ramen\.(attention|embedding|linear|mlp|position|residual|stream|value_embedding)\.(.+)": r"ramen.nn.\1.\2",  # 0.1
    r"ramen\.model\.(.+)": r"ramen.nn.\1",
    r"ramen\.routing\.(.+)": r"ramen.build.param_groups.\1",
    r"ramen\.trainer\.plan\.Plan": "ramen.training.config.TrainerConfig",
    r"ramen\.trainer\.(.+)": r"ramen.training.\1",
}


def current_names(config: Any) -> Any:
    """A config with the names that its components have today."""
    if isinstance(config, dict):
        return {key: _current(value) if key == "_target_" else current_names(value) for key, value in config.items()}
    return config


def _current(target: Any) -> Any:
    for old, new in RENAMED.items():
        if isinstance(target, str):
            target = re.sub(f"{old}$", new, target) if re.match(old, target) else target
    return target
