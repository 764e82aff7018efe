"""The networks and the sampler; independent of pictures, prompts and files."""
