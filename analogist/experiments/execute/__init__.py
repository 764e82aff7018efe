"""A study or evaluation as jobs: grouped, computed here or by Ray, stored, merged, put into a table."""
