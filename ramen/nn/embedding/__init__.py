"""Embeddings: token ids to vectors, and the matrix of the output head; one method a file."""
