"""The instances of one service: their connections, and which of them gets the next call."""

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge

from libs.common.logging import get_logger
from services.gateway.adapters.wire import Pool
from services.gateway.domain.balance import Outlier, choose
from services.gateway.domain.ports import UpstreamChooser

log = get_logger()


class InstanceMetrics:
    """What the instances of all services show."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.out = Gauge(
            "gatehouse_gateway_instances_out",
            "Instances of a service that are left out because they fail.",
            ("upstream",),
            registry=registry,
        )


class EveryInstance:
    """Implements UpstreamChooser: each instance serves everything."""

    def candidates(self, service: str, model: str | None, urls: Sequence[str]) -> Sequence[str]:
        """Give all of them."""
        return urls


class Instance:
    """One process of a service."""

    __slots__ = ("outlier", "pool", "url")

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.pool = Pool(url)
        self.outlier = Outlier()


class Instances:
    """Chooses among the processes of one service and learns from how their calls end."""

    def __init__(
        self, service: str, urls: Sequence[str], chooser: UpstreamChooser, metrics: InstanceMetrics
    ) -> None:
        self.service = service
        self._all = [Instance(url) for url in urls]
        self._urls = [instance.url for instance in self._all]
        self._only = self._all[0] if len(self._all) == 1 else None
        self._chooser = chooser
        self._turn = 0
        metrics.out.labels(service).set_function(self._count_out)

    def __len__(self) -> int:
        return len(self._all)

    def pick(self, model: str | None, avoid: Instance | None = None) -> Instance:
        """Give the instance for a call.

        Args:
            model: the model that the path names, if any.
            avoid: an instance that has failed or is late; taken only when there is no other.
        """
        if self._only is not None:
            return self._only
        named = self._chooser.candidates(self.service, model, self._urls)
        able = [instance for instance in self._all if instance.url in named] or self._all
        able = [instance for instance in able if instance is not avoid] or able
        if len(able) == 1:
            return able[0]
        now = time.monotonic()
        self._turn += 1
        index = choose(
            [instance.pool.busy_count for instance in able],
            [instance.outlier.is_out(now) for instance in able],
            self._turn,
        )
        return able[index]

    def succeeded(self, instance: Instance) -> None:
        """Report a call that went well."""
        if instance.outlier.succeeded():
            self._note(instance, "in")

    def failed(self, instance: Instance) -> None:
        """Report a failed call; with one instance there is nothing to leave out."""
        if self._only is None and instance.outlier.failed(time.monotonic()):
            self._note(instance, "out")

    def close(self) -> None:
        """Close the connections."""
        for instance in self._all:
            instance.pool.close()

    def _count_out(self) -> float:
        now = time.monotonic()
        return float(sum(instance.outlier.is_out(now) for instance in self._all))

    def _note(self, instance: Instance, state: str) -> None:
        number = self._all.index(instance)
        log.warning("instance changed", upstream=self.service, index=number, state=state)
