"""Study attention: capture, edit, measure and look, all as arguments of a call."""
