"""Training: examples, loop, recipes."""
