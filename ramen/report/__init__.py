"""Run folders in, a comparison out: means over seeds, intervals, tuning, costs, and what makes it unfair.

Reads what the trainer wrote and nothing else: no torch, no hydra, of ramen its errors and which keys of a config matter.
"""

from ramen.report.report import Report, compare

__all__ = ["Report", "compare"]
