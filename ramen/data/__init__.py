"""Data: text -> documents -> tokens -> shards -> batches."""
