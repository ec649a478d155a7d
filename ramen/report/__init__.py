"""Run folders in, a comparison out: means over seeds, intervals, tuning, costs, and what makes it unfair.

Reads what the trainer wrote and nothing else: no torch, no hydra, of ramen its errors and which keys of a config matter.
"""

from ramen.report.report import Report, compare
from ramen.report.statistics import seeds_needed

__all__ = ["Report", "compare", "seeds_needed"]
