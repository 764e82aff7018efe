"""Activations as data: collected from any number of runs into sharded files, and read back lazily."""
