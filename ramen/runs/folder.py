"""The files of a run folder, by name."""

from pathlib import Path

CONFIG, METRICS, SUMMARY, ENVIRONMENT = "config.yaml", "metrics.jsonl", "summary.json", "environment.json"
DIAGNOSTICS = "diagnostics.jsonl"
OVERRIDES = Path(".hydra", "overrides.yaml")  # Hydra's name for it
ENDED = ("finished", "diverged")  # statuses of a run with a result
