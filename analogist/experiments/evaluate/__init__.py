"""The published evaluation: its data, its protocol, and its numbers beside the paper's."""
