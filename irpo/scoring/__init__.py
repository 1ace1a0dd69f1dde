"""The model's part: from prompts to tokens, rows, one forward pass, log-probabilities."""
