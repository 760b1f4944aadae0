"""Costs, printed as ratios within one run."""
