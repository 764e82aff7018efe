"""What a table says: statistics, verdicts, plots, contact sheet and report."""
