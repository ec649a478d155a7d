"""From a command to one run, or to the jobs of a sweep; its mistakes, all at once; tables on the console."""
