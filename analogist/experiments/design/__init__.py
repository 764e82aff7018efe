"""What to run: studies, their factors, levels and inputs, and ready studies."""
