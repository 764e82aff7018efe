"""One run: its arguments, seeds and memory, the sampler, the result, its record and its folder."""
