"""Compensation of each group: which channels stay, and what stands in for the others."""
