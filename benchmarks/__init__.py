"""Measurements that back the figures in the documentation; run each with ``python -m``."""
