"""The run folder: the one room that knows its files. Write, read, lock, find, checkpoints."""
