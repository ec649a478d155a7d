"""The training loop, evaluation, checkpoints and the record of a step."""
