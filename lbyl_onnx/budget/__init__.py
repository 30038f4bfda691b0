"""Spend a budget: how many channels each group keeps so that a target is met."""
