"""What happens to the stream between the layers: `enter`, `before` and `after` each layer, `leave`; one way a file."""
