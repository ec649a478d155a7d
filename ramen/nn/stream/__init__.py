"""Changes of the stream between the layers: `enter`, `before` and `after` each layer, `leave`; one method a file."""
