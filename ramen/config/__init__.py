"""The config: its kinds, what may be built, and the checks."""
