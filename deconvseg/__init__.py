"""deconvseg: semantic segmentation with a learned deconvolution network over object proposals."""

__version__ = "0.1.0"
