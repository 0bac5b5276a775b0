"""Colour transfer from one image to another (paper 2.4; Pitie and Kokaram 2007)."""

import numpy as np

# Variance of pixels in [-1, 1] due to rounding to bytes alone: nothing flatter than this is stretched.
ROUNDING = (2 / 255) ** 2 / 12


# T = A^(-1/2) (A^(1/2) B A^(1/2))^(1/2) A^(-1/2), the Monge-Kantorovitch map from covariance A to B
def transfer(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`image` with the mean and covariance of the colours of `reference`; both (3, H, W), pixels in [-1, 1].

    The map is the linear one that changes the colours least. The result may leave [-1, 1].
    """
    colours, wanted = (x.reshape(3, -1).astype(np.float64) for x in (image, reference))
    covariance = np.cov(colours)
    root, inverse = _power(covariance, 0.5, ROUNDING), _power(covariance, -0.5, ROUNDING)
    linear = inverse @ _power(root @ np.cov(wanted) @ root, 0.5) @ inverse
    moved = linear @ (colours - colours.mean(axis=1, keepdims=True)) + wanted.mean(axis=1, keepdims=True)
    return moved.reshape(image.shape).astype(image.dtype)


def _power(matrix: np.ndarray, exponent: float, least: float = 0.0) -> np.ndarray:
    """A power of a symmetric matrix whose eigenvalues are taken to be at least `least`."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.maximum(values, least) ** exponent @ vectors.T
