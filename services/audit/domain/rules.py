"""Security rules over the event stream: pure, bounded, driven by the log's own time.

| rule                | what it sees                                              | severity |
|---------------------|-----------------------------------------------------------|----------|
| auth_burst          | many refusals (401, 403) from one network within a minute | high     |
| key_many_networks   | one key seen from many networks within ten minutes        | high     |
| blocked_spike       | a tenant's blocked texts far above its own last hour      | medium   |
| model_hash_mismatch | a model file that is not the manifest's, or golden cases  | critical |

Each raises at most one alert per subject and quiet time. State is a bounded number of counters;
what falls out of it is the oldest.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

AUTH_BURST, AUTH_WINDOW_S = 20, 60.0
NETWORKS_MAX, NETWORKS_WINDOW_S = 5, 600.0
BLOCKED_MIN, BLOCKED_FACTOR, BLOCKED_WINDOW_S, BLOCKED_BASE_S = 20, 5.0, 60.0, 3600.0
QUIET_S = 600.0
_SUBJECTS_MAX = 4_096
_MOMENTS_MAX = 512
# Words of the change or its reason, as inference writes them (libs/common/manifest.py).
_MISMATCH = ("sha256", "golden")


@dataclass(frozen=True, slots=True)
class Alert:
    """What a rule saw; `subject` is a network, a key id, a tenant or a model, never a person."""

    rule: str
    severity: str
    tenant: str
    subject: str
    evidence: Mapping[str, Any]
    at_s: float


class _Recent:
    """The newest subjects, each with what `make` gives; the oldest falls out."""

    def __init__(self) -> None:
        self._items: OrderedDict[tuple[str, str], deque[tuple[float, str]]] = OrderedDict()

    def add(
        self, key: tuple[str, str], at_s: float, value: str, window_s: float
    ) -> deque[tuple[float, str]]:
        items = self._items.setdefault(key, deque(maxlen=_MOMENTS_MAX))
        self._items.move_to_end(key)
        if len(self._items) > _SUBJECTS_MAX:
            self._items.popitem(last=False)
        items.append((at_s, value))
        while items and items[0][0] <= at_s - window_s:
            items.popleft()
        return items


@dataclass(slots=True)
class _Rate:
    """Events of one tenant per minute, for the last hour."""

    minutes: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=61))

    def add(self, at_s: float) -> tuple[int, float]:
        """Count one; give this minute's count and the mean minute of the hour before."""
        minute = int(at_s // 60)
        if self.minutes and self.minutes[-1][0] == minute:
            self.minutes[-1] = (minute, self.minutes[-1][1] + 1)
        else:
            self.minutes.append((minute, 1))
        before = [count for when, count in self.minutes if minute - 60 <= when < minute]
        return self.minutes[-1][1], sum(before) / (BLOCKED_BASE_S / 60)


class Rules:
    """All rules and their state; feed events in log order."""

    def __init__(self) -> None:
        self._refusals, self._networks = _Recent(), _Recent()
        self._blocked: OrderedDict[str, _Rate] = OrderedDict()
        self._quiet: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def see(self, event: Mapping[str, Any], at_s: float) -> Iterator[Alert]:
        """Take one stored event; give the alerts that it raises.

        Args:
            event: the stored document.
            at_s: its ingestion time, POSIX seconds, never decreasing.
        """
        for alert in self._judge(event, at_s):
            key = (alert.rule, alert.tenant, alert.subject)
            if at_s - self._quiet.get(key, float("-inf")) >= QUIET_S:
                self._quiet[key] = at_s
                self._quiet.move_to_end(key)
                if len(self._quiet) > _SUBJECTS_MAX:
                    self._quiet.popitem(last=False)
                yield alert

    def _judge(self, event: Mapping[str, Any], at_s: float) -> Iterator[Alert]:
        kind, tenant, data = event["type"], str(event.get("tenant", "")), event["data"]
        network, key_id = data.get("network"), data.get("key_id")
        if kind == "auth.failed" and isinstance(network, str):
            seen = self._refusals.add(("", network), at_s, str(data.get("reason")), AUTH_WINDOW_S)
            if len(seen) >= AUTH_BURST:
                evidence = {"refusals": len(seen), "window_s": AUTH_WINDOW_S, "network": network}
                yield Alert("auth_burst", "high", tenant, network, evidence, at_s)
        if isinstance(network, str) and isinstance(key_id, str) and key_id:
            seen = self._networks.add((tenant, key_id), at_s, network, NETWORKS_WINDOW_S)
            count = len({value for _, value in seen})
            if count >= NETWORKS_MAX:
                evidence = {"networks": count, "window_s": NETWORKS_WINDOW_S, "key_id": key_id}
                yield Alert("key_many_networks", "high", tenant, key_id, evidence, at_s)
        if kind == "verdict.blocked" or (kind == "verdict.given" and data.get("action") == "block"):
            yield from self._spike(tenant, at_s)
        if kind == "model.changed" and any(
            word in f"{data.get('what', '')} {data.get('reason', '')}" for word in _MISMATCH
        ):
            model = str(data.get("model", ""))
            evidence = {
                "model": model,
                "version": data.get("version"),
                "reason": data.get("reason", ""),
            }
            yield Alert("model_hash_mismatch", "critical", tenant, model, evidence, at_s)

    def _spike(self, tenant: str, at_s: float) -> Iterator[Alert]:
        rate = self._blocked.setdefault(tenant, _Rate())
        self._blocked.move_to_end(tenant)
        if len(self._blocked) > _SUBJECTS_MAX:
            self._blocked.popitem(last=False)
        now, usual = rate.add(at_s)
        if now >= BLOCKED_MIN and now >= BLOCKED_FACTOR * usual:
            evidence = {"blocked": now, "usual_per_minute": round(usual, 2)}
            yield Alert("blocked_spike", "medium", tenant, tenant, evidence, at_s)
