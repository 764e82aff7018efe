"""How good one painted B' is, and how far a set of them lies from the truth."""
