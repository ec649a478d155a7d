"""Norms: `norm(x (..., D)) -> same shape and type`, before sublayers and the head; one method a file."""
