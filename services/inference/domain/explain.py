"""Exact TreeSHAP from per-leaf tables: build once at load, then compare, gather and add.

A leaf with d distinct features on its path is a game of d players: it pays its value times, for
each feature, 1 or 0 if the feature is known (does the row meet the leaf's bounds?) and the share of
training cover that goes its way if not. Its Shapley values depend on the row only through the mask
of met features, so all 2^d x d of them fit in a table.

Source: Lundberg et al. 2020 (path-dependent TreeSHAP); it equals XGBoost's `pred_contribs`. Missing
values meet a leaf's bounds when every split of the feature sends them its way.
"""

from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray

from services.inference.domain.trees import FloatMatrix, TreeEnsemble

# Above this the tables cost more memory than an explanation is worth.
TABLE_BYTES_MAX = 64 << 20
# Leaves whose tables are computed in one go: a few calls of numpy instead of hundreds per leaf,
# each short enough to let other threads run in between.
_LEAVES_AT_ONCE = 256


class ExplainerTooLargeError(ValueError):
    """The tables of this ensemble would exceed `TABLE_BYTES_MAX`."""


# By feature: low (inclusive), high (exclusive), whether a missing value is met, cover share.
_Bounds = dict[int, tuple[float, float, bool, float]]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One leaf while the tables are built: its margin and the bounds of its path."""

    value: float
    bounds: _Bounds


class TreeExplainer:
    """Explains single rows of one tree ensemble; immutable, safe to share between threads."""

    def __init__(self, ensemble: TreeEnsemble) -> None:
        leaves = [leaf for root in ensemble.roots for leaf in _leaves(ensemble, int(root))]
        width = max(1, *(len(leaf.bounds) for leaf in leaves))
        table_rows = sum(1 << len(leaf.bounds) for leaf in leaves)
        if table_rows * width * 8 > TABLE_BYTES_MAX:
            raise ExplainerTooLargeError(f"{table_rows * width * 8 >> 20} MiB of tables")
        shape = (len(leaves), width)
        # Unused slots meet no value and add nothing.
        self._feature = np.zeros(shape, np.intp)
        self._low = np.full(shape, np.inf, np.float32)
        self._high = np.full(shape, -np.inf, np.float32)
        self._takes_missing = np.zeros(shape, bool)
        self._bits = (1 << np.arange(width)).astype(np.int32)
        self._first_row = np.zeros(len(leaves), np.int32)
        self._table = np.zeros((table_rows, width), np.float64)
        self._features = ensemble.features
        base, row = ensemble.base_margin, 0
        alike: dict[int, list[tuple[int, float, list[float]]]] = {}
        for number, leaf in enumerate(leaves):
            d = len(leaf.bounds)
            for slot, (feature, (low, high, missing, _)) in enumerate(leaf.bounds.items()):
                self._feature[number, slot] = feature
                self._low[number, slot] = low
                self._high[number, slot] = high
                self._takes_missing[number, slot] = missing
            shares = [share for *_, share in leaf.bounds.values()]
            self._first_row[number] = row
            alike.setdefault(d, []).append((row, leaf.value, shares))
            row += 1 << d
            base += leaf.value * float(np.prod(shares))
        self.base_value = base
        for d, group in alike.items():
            for start in range(0, len(group), _LEAVES_AT_ONCE):
                some = group[start : start + _LEAVES_AT_ONCE]
                rows, values, each = zip(*some, strict=True)
                places = np.asarray(rows)[:, None] + np.arange(1 << d)
                tables = shapley_tables(np.asarray(values), np.asarray(each).reshape(len(some), d))
                self._table[places, :d] = tables
        # Slots in the order of their features, and where each feature that is used begins.
        slots = self._feature.ravel()
        self._by_feature = np.argsort(slots, kind="stable")
        self._used, self._starts = np.unique(slots[self._by_feature], return_index=True)

    @property
    def table_bytes(self) -> int:
        """Memory of the tables."""
        return self._table.nbytes

    def contributions(self, row: FloatMatrix) -> NDArray[np.float64]:
        """Give each feature's exact contribution to the margin of one row.

        Args:
            row: shape (features,), float32, NaN where missing.

        Returns:
            shape (features,); `base_value` plus their sum is the margin.
        """
        x = row.take(self._feature)
        met = x >= self._low
        met &= x < self._high
        is_missing = np.isnan(x)
        is_missing &= self._takes_missing
        met |= is_missing
        # `take` instead of indexing: three times faster while the tables are not in the cache.
        added = self._table.take(self._first_row + met @ self._bits, axis=0)
        summed = np.zeros(self._features)
        summed[self._used] = np.add.reduceat(added.ravel().take(self._by_feature), self._starts)
        return summed


def shapley_tables(values: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the Shapley values of leaves with equally many features, for each mask of met ones.

    For feature i and mask o: `value * (o_i - z_i) * sum_k k!(d-k-1)!/d! * c_k`, where c_k is the
    coefficient of y^k in the product over j != i of `(z_j + o_j * y)`.

    Args:
        values: margins of the leaves, shape (leaves,).
        shares: cover shares z of their distinct features, shape (leaves, d).

    Returns:
        shape (leaves, 2^d, d); row m belongs to the mask with bit j set when feature j is met.
    """
    leaves, d = shares.shape
    met = (np.arange(1 << d)[:, None] >> np.arange(d) & 1).astype(np.float64)
    weights = np.asarray([factorial(k) * factorial(d - k - 1) / factorial(d) for k in range(d)])
    tables = np.zeros((leaves, 1 << d, d))
    for i in range(d):
        polynomial = np.zeros((leaves, 1 << d, d))
        polynomial[:, :, 0] = 1.0
        for j in range(d):
            if j != i:
                shifted = np.zeros_like(polynomial)
                shifted[:, :, 1:] = polynomial[:, :, :-1] * met[:, j, None]
                polynomial = polynomial * shares[:, j, None, None] + shifted
        own = met[:, i] - shares[:, i, None]
        tables[:, :, i] = values[:, None] * own * (polynomial @ weights)
    return tables


def _leaves(ensemble: TreeEnsemble, root: int) -> list[_Leaf]:
    """Walk one tree and describe each leaf by the bounds that its path sets."""
    found: list[_Leaf] = []
    stack: list[tuple[int, _Bounds]] = [(root, {})]
    while stack:
        node, bounds = stack.pop()
        left, right = int(ensemble.left[node]), int(ensemble.right[node])
        if left == node:
            found.append(_Leaf(float(ensemble.value[node]), bounds))
            continue
        feature, cut = int(ensemble.feature[node]), float(ensemble.threshold[node])
        low, high, missing, share = bounds.get(feature, (-np.inf, np.inf, True, 1.0))
        to_left = bool(ensemble.default_left[node])
        for child, child_low, child_high, takes in (
            (left, low, min(high, cut), to_left),
            (right, max(low, cut), high, not to_left),
        ):
            part = float(ensemble.cover[child] / ensemble.cover[node])
            stack.append(
                (
                    child,
                    {**bounds, feature: (child_low, child_high, missing and takes, share * part)},
                )
            )
    return found
