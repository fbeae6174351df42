"""HyperLogLog over 31-bit codes: how many distinct ones, in 1,024 registers. Pure, needs numpy.

Source: Flajolet et al. 2007, with linear counting below 2.5 registers' worth. Standard error
1.04 / sqrt(1024) = 3.3 %. A register keeps the position of the first one bit of the 21 bits that
do not choose it, so unions are maxima and replays change nothing.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Registers = NDArray[np.uint8]

REGISTERS = 1024
_INDEX_BITS, _CODE_BITS = 10, 31
_REST_BITS = _CODE_BITS - _INDEX_BITS
_ALPHA = 0.7213 / (1 + 1.079 / REGISTERS)


def empty() -> Registers:
    """Give the registers of nothing, shape (1024,)."""
    return np.zeros(REGISTERS, dtype=np.uint8)


def add(registers: Registers, codes: NDArray[np.int64]) -> None:
    """Add codes in place; each in [0, 2^31)."""
    if not len(codes):
        return
    rest = codes & ((1 << _REST_BITS) - 1)
    # Exact for numbers below 2^53; 0 has no one bit and ranks highest.
    bits = np.frexp(rest.astype(np.float64))[1]
    rank = (_REST_BITS - bits + 1).astype(np.uint8)
    np.maximum.at(registers, codes >> _REST_BITS, rank)


def estimate(registers: Registers) -> float:
    """Give the number of distinct codes, rounded to a whole number."""
    zeros = int(np.count_nonzero(registers == 0))
    raw = _ALPHA * REGISTERS**2 / float(np.sum(np.exp2(-registers.astype(np.float64))))
    if raw <= 2.5 * REGISTERS and zeros:
        raw = REGISTERS * math.log(REGISTERS / zeros)
    return float(round(raw))


def estimate_codes(codes: Iterable[int]) -> float:
    """Give what registers would say of these codes."""
    registers = empty()
    add(registers, np.fromiter(codes, dtype=np.int64))
    return estimate(registers)
