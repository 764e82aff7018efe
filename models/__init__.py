"""The networks and the sampler, knowing nothing of pictures, prompts or files."""
