"""MLPs: `mlp(x (B, T, D)) -> delta (B, T, D)`, one method a file."""
