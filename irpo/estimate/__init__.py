"""`irpo estimate`: what a run will take in memory and time, from a run on fake tensors."""
