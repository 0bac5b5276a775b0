"""Intervals of shares, and of the difference of two."""

from math import sqrt

from scipy.special import ndtri


def difference(hits: int, of: int, others: int, of_others: int, each: float = 1.0,
               compared: int = 1) -> tuple[float, float]:
    """The 95 % interval of a share minus another, by Newcombe's method (Statistics in Medicine 17:873, 1998):
    a hybrid of two Wilson intervals, which takes the two shares to be independent. Every `each` images of
    either share a source, and count as one, as if they were all alike. The most remarkable of several
    `compared` differences may be so by chance, so its interval is wider (Bonferroni)."""
    p, q = hits / of, others / of_others
    first, second = (wilson(share, count / each, 0.05 / compared)
                     for share, count in ((p, of), (q, of_others)))
    return (p - q - sqrt((p - first[0]) ** 2 + (second[1] - q) ** 2),
            p - q + sqrt((first[1] - p) ** 2 + (q - second[0]) ** 2))


def wilson(share: float, of: float, miss: float = 0.05) -> tuple[float, float]:
    """Wilson's interval of a share, which misses it with a probability of `miss`; the count, `of`, need not
    be a whole number."""
    z = float(ndtri(1 - miss / 2))
    middle, half = share + z**2 / (2 * of), z * sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return (middle - half) / (1 + z**2 / of), (middle + half) / (1 + z**2 / of)
