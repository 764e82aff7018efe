"""What is to be run: studies, their factors and levels, their inputs, and the ready ones."""
