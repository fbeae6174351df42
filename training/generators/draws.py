"""Counter-based random draws: a value is a pure function of its key, so no state is shared.

Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied once per part of the key.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
# Largest Poisson count that is drawn; at the largest rate used (8) it is exceeded once in 10^9.
_POISSON_MAX = 32


def _finalise(state: Keys) -> Keys:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def key(*parts: ArrayLike) -> Keys:
    """Hash integer parts, broadcast against each other, to one 64-bit key per element."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        word = np.atleast_1d(np.asarray(part)).astype(np.int64).view(np.uint64)
        state = _finalise((state ^ word) * _GOLDEN + _GOLDEN)
    return state


def uniform(keys: Keys, stream: int) -> Floats:
    """Uniform on (0, 1), one per key; `stream` separates several draws of the same key."""
    bits = _finalise(keys ^ _finalise(np.full(1, stream + 1, dtype=np.uint64) * _GOLDEN))
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(keys: Keys, stream: int) -> Floats:
    """Standard normal by Box-Muller; uses streams `stream` and `stream + 10_000`."""
    radius = np.sqrt(-2.0 * np.log(uniform(keys, stream)))
    return radius * np.cos(2.0 * np.pi * uniform(keys, stream + 10_000))


def poisson(keys: Keys, stream: int, rate: Floats) -> NDArray[np.int64]:
    """Poisson counts by inversion, rate in [0, 8] and of the keys' shape."""
    draw = uniform(keys, stream)
    term = np.exp(-rate)
    total = term.copy()
    count = np.zeros(draw.shape, dtype=np.int64)
    for step in range(1, _POISSON_MAX):
        above = draw > total
        if not above.any():
            break
        count += above
        term = term * rate / step
        total += term
    return count


def choose(keys: Keys, stream: int, weights: Floats) -> NDArray[np.int64]:
    """Index by weight, the same weights of shape (k,) for every key."""
    edges = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(edges, uniform(keys, stream)), len(edges) - 1)
