"""Training: a prepared job, the method, the loop whose step is the paper's, and what came of it."""
