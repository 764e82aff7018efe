"""What a table allows to be said: paired differences, intervals, tests, equivalence, power, looks at a study that still runs."""
