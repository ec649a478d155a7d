"""Positions: `position(x (B, T, ..., H, K)) -> same shape`, one method a file."""
