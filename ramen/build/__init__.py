"""A checked config -> a dry run on fake tensors -> the objects of a run."""
