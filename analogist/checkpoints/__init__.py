"""Checkpoints and what is loaded beside the UNet and VAE: found, checked, tokenizer and text encoders, LoRA files, devices."""
