"""Synthetic labelled images with diffusion models: the program behind the book."""

__version__ = "0.1.0"
