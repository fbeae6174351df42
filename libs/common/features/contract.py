"""What a model reads: a feature service is an ordered list of features with a fingerprint.

A feature is `view:name`. Views `card`, `merchant`, `user`, `item`, `session` come from windows over
events; `request` comes with the call; `derived` is computed from the others by one numpy function
that serving and training share.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Columns = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of a model.

    Attributes:
        name: unique within its service.
        view: where the value comes from.
        group: explanation group; contributions are summed by it before they are ranked.
        label: how an analyst reads it.
    """

    name: str
    view: str
    group: str
    label: str


@dataclass(frozen=True)
class FeatureService:
    """The exact list that a model version reads, in order.

    Attributes:
        name: with its version, for example `fraud_v1`.
        raw: what windows and the request must deliver to `derive`, as `view:name`.
        features: the model's inputs, in order.
        derive: columns of raw values, each of shape (n,), NaN where missing, to the matrix of
            shape (n, len(features)), float64. Pure; the same code offline and online.
    """

    name: str
    raw: tuple[str, ...]
    features: tuple[Feature, ...]
    derive: Callable[[Columns], FloatArray] = field(repr=False)

    def __hash__(self) -> int:
        """Hash the name alone: services are looked up on every read, and have many features."""
        return hash(self.name)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The model's inputs by name, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Explanation groups with their features."""
        groups: dict[str, list[str]] = {}
        for feature in self.features:
            groups.setdefault(feature.group, []).append(feature.name)
        return groups

    @cached_property
    def fingerprint(self) -> str:
        """Hash of names and order; a model refuses to load against another."""
        text = "\n".join((self.name, *self.raw, "--", *self.names))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(slots=True)
class FeatureRequest:
    """One row to read: which entities, when, and what the request itself carries.

    Attributes:
        entities: join keys, for example {"card": "card_00000001", "merchant": "merchant_00001"};
            an entity that the request does not name is absent.
        values: the current event as numbers and codes, for example
            {"amount_minor": 15000, "mcc_code": "5411", "country_code": "US"}.
        now_ms: wall clock of the request; windows end here.
        event_id: id under which this event is or will be ingested, so that it counts once.
    """

    entities: dict[str, str]
    values: dict[str, object]
    now_ms: int
    event_id: str | None = None


@dataclass(slots=True)
class FeatureRows:
    """What was read for n rows.

    Attributes:
        matrix: shape (n, k), float32, NaN where missing.
        missing: per row, `view:name` of raw features that had no value.
        stale: per row, views whose newest event is older than their ttl.
        freshness_s: per row, age of the newest event among the views read, None without any.
        degraded_reasons: closed set, for example `redis_unavailable`; empty when all is well.
        read_s: seconds spent on the read.
        raw: shape (n, number of raw features), float64, in the service's order; for parity
            samples. None from readers that keep no raw values.
        offsets: per view, the log offset that each row's blob had; -1 without a blob.
    """

    matrix: NDArray[np.float32]
    missing: list[list[str]]
    stale: list[list[str]]
    freshness_s: list[float | None]
    degraded_reasons: list[str]
    read_s: float
    raw: FloatArray | None = None
    offsets: dict[str, list[int]] = field(default_factory=dict)


class FeatureReader(Protocol):
    """Reads rows in one round trip.

    Failure policy: degrade. Redis slow (over its timeout, 50 ms at most) or gone gives rows with
    every stored feature missing and `degraded_reasons = ["redis_unavailable"]`; it never raises
    for a store failure and never falls back to Postgres.
    """

    async def read(
        self, service: FeatureService, tenant: str, requests: list[FeatureRequest]
    ) -> FeatureRows:
        """Read the rows of `service` for `tenant`, one MGET for all of them."""
        ...
