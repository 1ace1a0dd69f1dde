"""From an example to the text that a model reads, and from its answer back to a ranking."""
