"""Configs of older run folders in today's words. Who renames a class or key that a config can name adds a line here."""

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
ADDED = {"batching": "documents", "validation": "spread", "holdout": "hash"}  # keys of data that 0.1 had no choice of


def current_names(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the names that its components and keys have today, and with the keys that came later."""
    config = {KEYS.get(key, key): _renamed(key, value) for key, value in config.items()}
    data, model = config.get("data"), config.get("model")
    if isinstance(data, dict) and "sequence_length" in data and "batching" not in data:
        added = {key: value for key, value in ADDED.items() if key != "holdout" or "validation_fraction" in data}
        config["data"] = data | {key: value for key, value in added.items() if key not in data}
    if isinstance(model, dict) and model.get("_target_") == "ramen.nn.gpt.GPT":
        config["model"] = {"embedding_norm": True} | model  # which 0.1 always did
    return config


def _renamed(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {KEYS.get(key, key): _renamed(key, inner) for key, inner in value.items()}
    if key == "_target_" and isinstance(value, str):
        for old, new in TARGETS.items():
            value = re.sub(f"^{old}$", new, value)
    return value
