"""Intervals of shares, and of the difference of two."""

from math import sqrt

from scipy.special import ndtri


def difference(hits: int, of: int, others: int, of_others: int, each: float = 1.0) -> tuple[float, float]:
    """The 95 % interval of a share minus another, by Newcombe's method (Statistics in Medicine 17:873, 1998):
    a hybrid of two Wilson intervals, which takes the two shares to be independent. In the first, every `each`
    images share a source, and so its region; they count as one, as if they were all alike."""
    p, q = hits / of, others / of_others
    first, second = wilson(p, of / each), wilson(q, of_others / each)
    return (p - q - sqrt((p - first[0]) ** 2 + (second[1] - q) ** 2),
            p - q + sqrt((first[1] - p) ** 2 + (q - second[0]) ** 2))


def wilson(share: float, of: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; the count, `of`, need not be a whole number."""
    z = float(ndtri(0.975))
    middle, half = share + z**2 / (2 * of), z * sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return (middle - half) / (1 + z**2 / of), (middle + half) / (1 + z**2 / of)
