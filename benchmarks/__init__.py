"""Benchmarks, section by section: training steps, a plain peer, the loader, the jobs of a sweep."""
