"""Numbers from attention: flow, correspondence, word heat maps, effects of SAC and CAM, patch sweeps."""
