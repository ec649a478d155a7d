"""A trained run, opened: load, generate, evaluate."""
