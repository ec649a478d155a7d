"""Value embeddings: tables from which attention's values get a share that depends on the token alone; one method a file."""
