"""Linear maps: banks of independent matrices, one parametrisation a file."""
