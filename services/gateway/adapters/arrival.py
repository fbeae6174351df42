"""What is known of a request before anything is decided: ids, address, network, trace."""

from ipaddress import ip_address, ip_network

from libs.common.context import bind
from libs.common.ids import acceptable_request_id, parse_traceparent, random_trace_id, uuid7
from libs.common.telemetry import get_telemetry, traceparent_of
from services.gateway.adapters.backstage import CREDENTIAL
from services.gateway.adapters.exchange import Exchange
from services.gateway.domain.address import client_address, network_of
from services.gateway.settings import GatewaySettings

_NETWORKS_MAX = 10_000


class Arrival:
    """Identifies exchanges; remembers the networks of addresses, up to a bound."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._forwarded_hops = settings.forwarded_hops
        self._trusted = [ip_network(cidr, strict=False) for cidr in settings.trusted_cidrs]
        self._networks: dict[str, tuple[str, bool]] = {}

    def identify(self, exchange: Exchange) -> None:
        """Set ids, address and trace.

        An untrusted caller gets a trace of its own, sampled as any other, which points at theirs.
        """
        fields, context = exchange.fields, exchange.context
        client = exchange.scope.get("client")
        address = client[0] if client else ""
        if self._forwarded_hops:
            address = client_address(
                address, exchange.text(b"x-forwarded-for"), self._forwarded_hops
            )
        exchange.address = address
        exchange.network, is_trusted = self._network(address)
        is_trusted = is_trusted or CREDENTIAL in exchange.scope
        context.request_id = _accepted(fields.get(b"x-request-id")) or uuid7()
        context.correlation_id = _accepted(fields.get(b"x-correlation-id")) or context.request_id
        bind(context)
        self._trace(exchange, is_trusted=is_trusted)

    def _trace(self, exchange: Exchange, *, is_trusted: bool) -> None:
        context = exchange.context
        sent = exchange.text(b"traceparent")
        telemetry = get_telemetry()
        if telemetry.enabled:
            span = (
                telemetry.start_server_span(exchange.method, sent)
                if is_trusted
                else telemetry.start_server_span(exchange.method, None, linked=sent)
            )
            context.traceparent = traceparent_of(span) or ""
            if span.is_recording():
                exchange.span = span
        elif is_trusted and parse_traceparent(sent):
            context.traceparent = sent
        if not context.traceparent:
            made = random_trace_id()
            context.traceparent = f"00-{made}-{made[16:]}-00"
        context.trace_id = context.traceparent[3:35]

    def _network(self, address: str) -> tuple[str, bool]:
        known = self._networks.get(address)
        if known is None:
            network = network_of(address)
            try:
                parsed = ip_address(address)
                is_trusted = any(parsed in trusted for trusted in self._trusted)
            except ValueError:
                is_trusted = False
            if len(self._networks) >= _NETWORKS_MAX:
                self._networks.clear()
            known = self._networks[address] = (network, is_trusted)
        return known


def _accepted(asked: bytes | None) -> str | None:
    return acceptable_request_id(asked.decode("latin-1")) if asked else None
