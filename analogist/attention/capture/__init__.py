"""Maps kept during a run: the request, its plan in bytes, the storage, and the maps with named axes."""
