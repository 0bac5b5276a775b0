"""Which generator's pairs a repetition takes, where a run has several generators.

All data types of a seed take the pairs of the same generator, so that comparisons stay paired. Where there is
another generator it takes over some repetitions, and the others keep theirs.
"""

from functools import lru_cache


@lru_cache
def shares(seeds: int, generators: int) -> tuple[int, ...]:
    """The generator of each of so many seeds, numbered from 0.

    The first `generators` seeds have one each, and no generator has many more seeds than another. With one
    generator more, a seed keeps its own or goes to the new one; with more seeds, those before keep theirs.
    """
    if generators == 1:
        return (0,) * seeds
    shared, counts = [], [0] * generators
    for before in shares(seeds, generators - 1):
        mine = generators - 1 if counts[-1] < counts[before] else before
        counts[mine] += 1
        shared.append(mine)
    return tuple(shared)


def generator_of(seed: int, generators: int) -> int:
    """The generator of one repetition."""
    return shares(seed + 1, generators)[seed]
