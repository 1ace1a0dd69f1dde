"""The commands of `irpo`, a function each. What is heavy is imported inside the one that needs it."""
