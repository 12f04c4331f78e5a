"""Drawing what `deconvseg.inspection` has found, as PNG, PDF or SVG."""
