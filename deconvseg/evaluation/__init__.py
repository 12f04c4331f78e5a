"""Measuring a labelling against the truth."""
