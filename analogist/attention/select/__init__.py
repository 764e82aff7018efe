"""Selects parts of attention: points of sites, regions of the picture, token columns of words, steps and branches."""
