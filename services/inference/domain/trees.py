"""Boosted trees as XGBoost's JSON model format writes them, and their evaluation in numpy.

Format: `learner.gradient_booster.model.trees[*]` with parallel node arrays; a leaf has no left
child and keeps its value in `split_conditions`. A row goes left when `x < threshold`; a missing
value follows `default_left`. `learner_model_param.base_score` is a probability, since XGBoost 3
written as a one-element vector. Categorical splits and multi-class models are refused.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]
_LOGISTIC = frozenset({"binary:logistic", "reg:logistic"})
_LINEAR = frozenset({"reg:squarederror", "binary:logitraw"})


class TreeFormatError(ValueError):
    """The document is not a tree model that we can evaluate; the text says why."""


@dataclass(frozen=True)
class TreeEnsemble:
    """All nodes of all trees in one set of arrays; children are absolute node numbers.

    A leaf points at itself, so that walking `depth` steps from a root always ends in a leaf.

    Attributes:
        roots: shape (trees,), the root of each tree.
        left / right: shape (nodes,), children.
        feature: shape (nodes,), split feature; 0 on leaves.
        threshold: shape (nodes,), float32.
        default_left: shape (nodes,), where a missing value goes.
        value: shape (nodes,), margin of a leaf, 0 on inner nodes.
        cover: shape (nodes,), sum of hessians that reached the node in training.
        gain: shape (nodes,), loss reduction of a split, 0 on leaves.
        depth: longest path, in edges.
        base_margin: what all trees are added to, margin space.
        features: number of inputs.
        is_logistic: the probability is the logistic function of the margin.
    """

    roots: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    default_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    cover: NDArray[np.float64]
    gain: NDArray[np.float64]
    depth: int
    base_margin: float
    features: int
    is_logistic: bool

    def margins(self, matrix: FloatMatrix) -> NDArray[np.float64]:
        """Evaluate rows.

        Args:
            matrix: shape (n, features), float32, NaN where missing.

        Returns:
            shape (n,), margins.
        """
        rows = np.arange(len(matrix))[:, None]
        node = np.broadcast_to(self.roots, (len(matrix), len(self.roots)))
        for _ in range(self.depth):
            x = matrix[rows, self.feature[node]]
            goes_left = np.where(np.isnan(x), self.default_left[node], x < self.threshold[node])
            node = np.where(goes_left, self.left[node], self.right[node])
        return np.asarray(self.value[node].sum(axis=1) + self.base_margin)

    def probabilities(self, matrix: FloatMatrix) -> NDArray[np.float64]:
        """Evaluate rows to the model's output: a probability, or the margin of a regression."""
        margins = self.margins(matrix)
        return 1.0 / (1.0 + np.exp(-margins)) if self.is_logistic else margins

    def importance(self) -> NDArray[np.float64]:
        """Give each feature's share of the total gain, shape (features,), sum 1."""
        inner = self.left != np.arange(len(self.left))
        gain = np.bincount(self.feature[inner], self.gain[inner], minlength=self.features)
        total = gain.sum()
        return np.asarray(gain / total if total > 0 else gain)


def parse_xgboost(document: dict[str, Any]) -> TreeEnsemble:
    """Read a parsed XGBoost JSON model.

    Raises:
        TreeFormatError: not XGBoost JSON, or a kind of model that is not supported.
    """
    try:
        learner = document["learner"]
        objective = str(learner["objective"]["name"])
        parameters = learner["learner_model_param"]
        trees = learner["gradient_booster"]["model"]["trees"]
        base_score = float(str(parameters["base_score"]).strip("[]"))
        features, classes = int(parameters["num_feature"]), int(parameters["num_class"])
    except (KeyError, TypeError, ValueError) as error:
        raise TreeFormatError(f"not an XGBoost JSON model: {type(error).__name__}") from None
    if objective not in _LOGISTIC | _LINEAR:
        raise TreeFormatError(f"objective {objective} is not supported")
    if classes > 1 or not trees:
        raise TreeFormatError("only binary and regression models with trees are supported")
    is_logistic = objective in _LOGISTIC
    base_margin = math.log(base_score / (1 - base_score)) if is_logistic else base_score
    return _join(trees, base_margin, features, is_logistic)


def _join(
    trees: list[dict[str, Any]], base_margin: float, features: int, is_logistic: bool
) -> TreeEnsemble:
    """Lay the trees behind one another and make children absolute."""
    parts: dict[str, list[NDArray[Any]]] = {}
    roots, offset, depth = [], 0, 0
    for tree in trees:
        if any(tree.get("split_type", ())):
            raise TreeFormatError("categorical splits are not supported")
        left = np.asarray(tree["left_children"], np.int32)
        right = np.asarray(tree["right_children"], np.int32)
        is_leaf = left < 0
        own = np.arange(len(left), dtype=np.int32)
        conditions = np.asarray(tree["split_conditions"], np.float64)
        columns = {
            "left": np.where(is_leaf, own, left) + offset,
            "right": np.where(is_leaf, own, right) + offset,
            "feature": np.where(is_leaf, 0, np.asarray(tree["split_indices"], np.int32)),
            "threshold": np.where(is_leaf, 0, conditions),
            "default_left": np.asarray(tree["default_left"], bool),
            "value": np.where(is_leaf, conditions, 0.0),
            "cover": np.asarray(tree["sum_hessian"], np.float64),
            "gain": np.where(is_leaf, 0.0, np.asarray(tree["loss_changes"], np.float64)),
        }
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
        depth = max(depth, _depth(left, right))
        roots.append(offset)
        offset += len(left)
    joined = {name: np.concatenate(columns) for name, columns in parts.items()}
    return TreeEnsemble(
        roots=np.asarray(roots, np.int32),
        left=joined["left"].astype(np.int32),
        right=joined["right"].astype(np.int32),
        feature=joined["feature"].astype(np.int32),
        threshold=joined["threshold"].astype(np.float32),
        default_left=joined["default_left"],
        value=joined["value"],
        cover=joined["cover"],
        gain=joined["gain"],
        depth=depth,
        base_margin=base_margin,
        features=features,
        is_logistic=is_logistic,
    )


def _depth(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """Measure the longest path of one tree; XGBoost numbers children after their parents."""
    depths = np.zeros(len(left), np.int32)
    for node in range(len(left)):
        if left[node] >= 0:
            if left[node] <= node or right[node] <= node:
                raise TreeFormatError("a child comes before its parent")
            depths[left[node]] = depths[right[node]] = depths[node] + 1
    return int(depths.max())
