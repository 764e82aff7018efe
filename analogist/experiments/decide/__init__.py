"""What a table shows: paired differences, intervals, tests, equivalence, power, and looks at a study that still runs."""
