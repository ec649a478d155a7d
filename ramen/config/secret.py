"""Secrets stay out of what a run saves: a config that holds one is refused, a text that quotes one loses it.

A run's config is written to its folder, its log, the sweep's table and W&B. Keys belong into the environment (HF_TOKEN,
WANDB_API_KEY), where the libraries that need them look by themselves. Known by the name of its key, by a well-known form, or by
being the value of an environment variable whose name says secret.
"""

import os
import re
from collections.abc import Iterable

NAME = re.compile(
    r"(?:^|[._-])(?:\w*_)?(?:api_?key|access_?key|token|secret|password|passwd|credentials?)$", re.IGNORECASE
)
FORM = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|wandb_v\d_\w{20,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
    r"|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*)|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)
_ASSIGNED = re.compile(
    r"(?im)^(.*(?:api_?key|access_?key|token|secret|password|passwd)[\"']?\s*[:=]\s*)(?:[\"'][^\"'\n]{8,}[\"']|[\w+/=-]{16,}\s*$)"
)
SHORTEST = 8  # characters: a shorter value is in too many words
REMOVED = "[removed: a secret]"


def problems(flat: Iterable[tuple[str, object]]) -> list[str]:
    """A message for each key whose value is, by its name or its looks, a secret; the value is not in it."""
    held = _of_environment()
    found = []
    for key, value in flat:
        text = str(value)
        named = NAME.search(key) and value not in (None, "", False)
        if named or FORM.search(text) or any(secret in text for secret in held):
            found.append(
                f"{key}: looks like a secret, which every file of the run would show; allowed is the environment alone: "
                "HF_TOKEN, WANDB_API_KEY"
            )
    return found


def scrub(text: str) -> str:
    """The text without what looks like a secret."""
    text = _ASSIGNED.sub(rf"\1{REMOVED}", FORM.sub(REMOVED, text))
    for secret in _of_environment():
        text = text.replace(secret, REMOVED)
    return text


def _of_environment() -> list[str]:
    return [value for name, value in os.environ.items() if NAME.search(name) and len(value) >= SHORTEST]
