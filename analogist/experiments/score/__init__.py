"""Measures how good a painted B' is, and how far a set of them is from the truth."""
