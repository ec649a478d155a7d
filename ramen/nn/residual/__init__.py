"""Residual streams: `open(x) -> h`, `connect(h, branch) -> h` once per sublayer, `close(h) -> x`; one method a file."""
