"""Maps captured during a run: the request, its plan with sizes in bytes, the storage, and the maps with named axes."""
