"""From score maps to one labelling: fusion and dense CRF."""
