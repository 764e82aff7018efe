"""The published evaluation: its data, its protocol, and its results beside the paper's."""
