"""A command's words -> one run, or the jobs of a sweep; what is wrong with them; tables on the console."""
