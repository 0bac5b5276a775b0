"""Segmentation networks, what they are trained on, and grids of experiments."""
