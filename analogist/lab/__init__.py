"""How the lab checkpoint is made: draws pictures, trains on them, writes the folder `weights/lab`."""
