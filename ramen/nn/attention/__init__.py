"""Attention: `attention(x, position, mask) -> delta`, one method a file."""
