"""The lab checkpoint: drawing the pictures, training on them, writing the folder `weights/lab`."""
