"""Which part of attention is meant: points of sites, regions of the picture, token columns of words, steps and branches."""
