"""Assignment of generators to repetitions, where a run has several generators.

All data types of a seed take the pairs of the same generator, so that comparisons stay paired. A generator
that is added takes over some repetitions, and the others keep theirs.
"""

from functools import lru_cache


@lru_cache
def shares(seeds: int, generators: int) -> tuple[int, ...]:
    """The number, from 0, of each seed's generator.

    The first `generators` seeds have one each, and no generator has many more seeds than another. With one
    more generator, a seed keeps its own or moves to the new one; with more seeds, earlier ones keep theirs.
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
