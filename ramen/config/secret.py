"""Keys come from the environment: a config that holds one is refused, and what a run records loses what looks like one.

A run's config is written to its folder, its log, the sweep's table and W&B. The libraries that need a key look for it in the
environment by themselves (HF_TOKEN, WANDB_API_KEY). A secret is known by the name of its key, by the form of well-known keys, or as
the value of an environment variable of such a name. A list of our own: detect-secrets, tried on the cases of the tests, knows
neither Hugging Face's nor W&B's keys, nor headers, nor bare hexadecimal ones.
"""

import os
import re
from collections.abc import Iterable

_WORDS = r"(?:api_?key|access_?key|private_?key|secret|passw(?:or)?d|(?:db|user|admin|root)_pass|credentials?)"
_TOKEN = r"(?:(?:hf|api|auth|access|github|wandb)[_-])?token"  # a mask_token is none
_VARIABLE = re.compile(rf"(?:{_WORDS}|token)$", re.IGNORECASE)  # of the environment
NAME = re.compile(rf"(?:^|\.)(?:(?:[\w-]*[_-])?{_WORDS}|{_TOKEN})$", re.IGNORECASE)
FORM = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|wandb_v\d_\w{20,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
    r"|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*)|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
    r"|\b[Bb]earer\s+[\w.~+/=-]{8,}"
)
_KEY_FILE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY.*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?=^diff )|\Z)", re.DOTALL | re.MULTILINE
)
_ASSIGNED = re.compile(
    rf"((?:\b|[_-])(?:{_WORDS}|{_TOKEN})[\"']?(?:\s*:\s*\w+)?\s*[:=]\s*)(?:\"[^\"\n]+\"|'[^'\n]+'|(?=\S*\d)(?=\S*[a-z])[\w+/=-]{{6,}}\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_RANDOM = re.compile(
    r"\b(?=\w*\d)(?=\w*[a-zA-Z])[a-zA-Z0-9]{32,}\b|(?<![\w+/])(?=\S*\d)(?=\S*[a-z])(?=\S*[A-Z])[a-zA-Z0-9+/]{40,}=*"
)
REMOVED, ALLOWED = "[removed: a secret]", "HF_TOKEN, WANDB_API_KEY"


def problems(flat: Iterable[tuple[str, object]]) -> list[str]:
    """A message for each key whose value is, by its name or its looks, a secret; the value is not in it."""
    messages, environment = [], _of_environment()
    for key, value in flat:
        variable = next((name for name, secret in environment.items() if secret in str(value)), None)
        if variable or FORM.search(str(value)) or (isinstance(value, str) and value and NAME.search(key)):
            reason = f"holds the value of the environment variable {variable}" if variable else "looks like a secret"
            remedy = f"allowed is the environment alone: {ALLOWED}"
            messages.append(f"{key}: {reason}, which every file of the run would show; {remedy}")
    return messages


def scrub(text: str) -> str:
    """The text without what looks like a secret."""
    text = FORM.sub(REMOVED, text)
    for secret in _of_environment().values():
        text = text.replace(secret, REMOVED)
    return text


def scrub_code(diff: str) -> str:
    """A diff without what looks like a secret: key files, values of names that say so, and long random words, too."""
    diff = _ASSIGNED.sub(rf"\1{REMOVED}", scrub(_KEY_FILE.sub(REMOVED, diff)))
    return "".join(
        line if line.startswith("index ") else _RANDOM.sub(REMOVED, line) for line in diff.splitlines(keepends=True)
    )


def _of_environment() -> dict[str, str]:
    """Secret variables whose value is no plain word: that would be found everywhere."""
    random = re.compile(r".{16}|(?=.*\d)(?=.*[a-zA-Z]).{8}", re.DOTALL)
    return {name: value for name, value in os.environ.items() if _VARIABLE.search(name) and random.match(value)}
