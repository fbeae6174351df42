"""Who may pass, and how often: authentication and limits, in the order that protects most.

local guard and deny cache -> authenticate -> per address -> per key -> scope -> per route ->
concurrency. The guard protects authentication, so it lets credentials pass that are already known
to be exempt. A failed authentication counts against the address.
"""

import time
from collections import Counter
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric

from libs.common.catalog import SERVICES, Route
from libs.common.errors import (
    BadRequestError,
    NotFoundError,
    UnauthenticatedError,
)
from services.gateway.adapters.authenticator import Authenticator, reason_of, refusal
from services.gateway.adapters.backstage import CREDENTIAL
from services.gateway.adapters.exchange import Exchange
from services.gateway.adapters.security_events import SecurityEvents
from services.gateway.adapters.sessions import Sessions
from services.gateway.adapters.tenant_directory import TenantDirectory
from services.gateway.adapters.tickets import Tickets, ticket_of
from services.gateway.domain.limits import (
    Decision,
    DenyCache,
    LocalLimiter,
    Policy,
    retry_after,
)
from services.gateway.domain.named_model import may_call
from services.gateway.domain.ports import Credential, IpLimiter, KeyLimiter
from services.gateway.errors import InsufficientScopeError, LimitExceededError
from services.gateway.settings import GatewaySettings

SESSION_COOKIE = "gatehouse_session"
_POLICIES_MAX = 1_024
_METRICS_ROUTE = Route("GET", "/metrics", "metrics:read", "Metrics of one service")


def presented_credential(exchange: Exchange) -> str:
    """Give the credential that was sent, or an empty text.

    Raises:
        BadRequestError: two credentials, or a scheme other than Bearer.
    """
    key = exchange.text(b"x-api-key")
    authorization = exchange.text(b"authorization")
    if key and authorization:
        raise BadRequestError(
            "Two credentials were sent.", hint="Send X-API-Key or Authorization, not both."
        )
    if not authorization:
        return key.strip()
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise refusal("The authorization scheme is not Bearer.", "scheme")
    return token.strip()


class Admission:
    """Decides whether one exchange may go on; holds the limiters and the in-flight counts."""

    def __init__(
        self,
        settings: GatewaySettings,
        authenticator: Authenticator,
        ip_limiter: IpLimiter | None,
        key_limiter: KeyLimiter | None,
        events: SecurityEvents,
        sessions: Sessions,
        tickets: Tickets,
        registry: CollectorRegistry,
        tenants: TenantDirectory,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._ip_limiter = ip_limiter
        self._key_limiter = key_limiter
        self._events = events
        self._sessions = sessions
        self._tickets = tickets
        self._tenants = tenants
        self._local = LocalLimiter()
        self._denied = DenyCache()
        self._in_flight: Counter[str] = Counter()
        self._decisions = Metric(
            "gatehouse_gateway_limit_decisions_total",
            "Decisions of the limits by layer and outcome.",
            ("layer", "outcome"),
            registry=registry,
        )
        burst = settings.ip_burst_per_s
        self._guard = Policy("ip-burst", burst, 1.0, burst)
        self._ip = Policy(
            "ip", settings.ip_limit_requests, settings.ip_limit_window_s, settings.ip_limit_requests
        )
        self._route_policies: dict[str, Policy] = {}
        self._shares: dict[str, Policy] = {}
        self._key_policies: dict[tuple[int, int, int], Policy] = {}
        self._outcomes: dict[tuple[str, str], Metric] = {}

    async def admit(self, exchange: Exchange, route: Route | None) -> None:
        """Let the exchange pass, or raise.

        Args:
            exchange: gets its credential and the decisions that its answer will show.
            route: the matched route; None for an unknown path, which counts as any other.

        Raises:
            BadRequestError, UnauthenticatedError, UnavailableError, RateLimitedError,
            InsufficientScopeError.
        """
        is_free = route is not None and route.skips_ip_policy
        if is_free and route is not None and route.scope is None:
            return
        token = self._token(exchange)
        known = self._authenticator.peek(token) if token else None
        counted = not is_free
        if counted and not (known and known.exempt_ip):
            await self._check_guard(exchange)
        with exchange.part("auth.verify"):
            credential = await self._authenticate(exchange, token, route)
        with exchange.part("ratelimit.check"):
            if counted and not (credential and credential.exempt_ip):
                await self._check_address(exchange, self._ip, exchange.network)
            if credential:
                await self._check_key(exchange, credential)
                await self._check_tenant(exchange, credential)
        if route is None:
            return
        if route.scope and credential:
            self._check_scope(exchange, credential, route.scope)
        if route.ip_quota and not (credential and credential.exempt_routes):
            await self._check_route(exchange, route)

    @staticmethod
    def _check_scope(exchange: Exchange, credential: Credential, scope: str) -> None:
        """Refuse who may not; a scope for one model opens the route's scope for this call."""
        caller = credential.caller
        if not may_call(caller, scope, exchange.model):
            raise InsufficientScopeError(scope)
        if not caller.may(scope):
            exchange.opened = scope

    async def metrics_of(self, exchange: Exchange, query: bytes) -> str | None:
        """Give the service of `GET /metrics?service=`, for a caller with scope metrics:read.

        Raises:
            NotFoundError: no such service. The errors of authentication and InsufficientScopeError.
        """
        wanted = parse_qs(query.decode("latin-1")).get("service")
        if not wanted or wanted[0] == "gateway":
            return None
        token = self._token(exchange)
        credential = await self._authenticate(exchange, token, _METRICS_ROUTE)
        if credential and not credential.caller.may("metrics:read"):
            raise InsufficientScopeError("metrics:read")
        if wanted[0] not in SERVICES:
            raise NotFoundError("No such service.", services=sorted(SERVICES))
        return wanted[0]

    def enter(self, credential: Credential | None) -> None:
        """Count the exchange as in flight.

        Raises:
            RateLimitedError: the principal has too many already.
        """
        if credential is None:
            return
        principal = credential.caller.principal
        limit = credential.concurrency_max or self._settings.key_concurrency_max
        if self._in_flight[principal] >= limit:
            self._count("concurrency", "refused")
            raise LimitExceededError(
                f"More than {limit} requests of this key are in flight.",
                retry_after_s=1,
                violated=["concurrency"],
            )
        self._in_flight[principal] += 1

    def leave(self, credential: Credential | None) -> None:
        """Count the exchange as done."""
        if credential is None:
            return
        principal = credential.caller.principal
        self._in_flight[principal] -= 1
        if self._in_flight[principal] <= 0:
            del self._in_flight[principal]

    def _token(self, exchange: Exchange) -> str:
        try:
            return presented_credential(exchange)
        except UnauthenticatedError:
            return exchange.text(b"authorization")  # refused below, after the guard

    async def _authenticate(
        self, exchange: Exchange, token: str, route: Route | None
    ) -> Credential | None:
        preset: Credential | None = exchange.scope.get(CREDENTIAL)
        if preset is not None:  # the console asks for the person who is signed in
            return self._adopt(exchange, preset)
        if not token and route and route.path.startswith("/console") and route.scope:
            session = exchange.cookie(SESSION_COOKIE)
            found = await self._sessions.find(session) if session else None
            if found:
                return self._adopt(exchange, found)
        if not token:
            ticket = ticket_of(exchange)
            if ticket:
                return self._adopt(exchange, await self._redeemed(exchange, ticket))
            if route is None or route.scope is None:
                return None
            await self._count_failure(exchange)
            raise refusal("This route needs a credential.", "missing", sent=False)
        try:
            credential = await self._authenticator.verify(presented_credential(exchange))
        except UnauthenticatedError as error:
            await self._events.auth_failed(exchange.network, reason_of(error), token)
            await self._count_failure(exchange)
            raise
        return self._adopt(exchange, credential)

    async def _redeemed(self, exchange: Exchange, ticket: str) -> Credential:
        credential = await self._tickets.redeem(ticket)
        if credential is None:
            await self._events.auth_failed(exchange.network, "ticket", "")
            await self._count_failure(exchange)
            raise refusal("The ticket is not valid; each one works once, for 30 s.", "ticket")
        return credential

    @staticmethod
    def _adopt(exchange: Exchange, credential: Credential) -> Credential:
        exchange.credential = credential
        exchange.context.caller = credential.caller
        exchange.scope[CREDENTIAL] = credential
        return credential

    def _count(self, layer: str, outcome: str) -> None:
        child = self._outcomes.get((layer, outcome))
        if child is None:
            child = self._outcomes[layer, outcome] = self._decisions.labels(layer, outcome)
        child.inc()

    async def _count_failure(self, exchange: Exchange) -> None:
        await self._check_address(exchange, self._ip, exchange.network)

    async def _check_guard(self, exchange: Exchange) -> None:
        now = time.monotonic()
        denied = self._denied.remaining_s(exchange.network, now)
        if denied:
            await self._refuse(exchange, "deny", Decision(self._ip, False, 0, denied, denied))
        decision = self._local.take(f"guard|{exchange.network}", self._guard, now)
        if not decision.allowed:
            await self._refuse(exchange, "guard", decision)

    async def _check_address(self, exchange: Exchange, policy: Policy, bucket: str) -> None:
        decision = await self._ip_limiter.take(bucket, policy) if self._ip_limiter else None
        layer = "ip" if decision else "ip_local"
        now = time.monotonic()
        if decision is None or decision.allowed:
            # Counted here in any case: a store that fails must not mean a fresh burst.
            own = self._local.take(f"ip|{bucket}", self._share_of(policy), now)
            decision = decision or own
        exchange.decisions.append(decision)
        if not decision.allowed:
            if policy is self._ip:
                self._denied.deny(exchange.network, now + decision.retry_after_s)
            await self._refuse(exchange, layer, decision)
        self._count(layer, "allowed")

    def _share_of(self, policy: Policy) -> Policy:
        """Give this process's share of an address policy."""
        share = self._shares.get(policy.name)
        if share is None:
            share = self._shares[policy.name] = policy.shared_by(self._settings.replicas)
        return share

    async def _check_key(self, exchange: Exchange, credential: Credential) -> None:
        policy = self._key_policy(credential)
        caller = credential.caller
        name = f"key|{caller.tenant}|{caller.principal}"
        decision = self._local.take(name, policy, time.monotonic())
        layer = "key_local"
        if decision.allowed and self._key_limiter:
            shared = await self._key_limiter.take(caller.tenant, caller.principal, policy)
            if shared is not None:
                decision, layer = shared, "key"
        exchange.decisions.append(decision)
        if not decision.allowed:
            await self._refuse(exchange, layer, decision)
        self._count(layer, "allowed")

    async def _check_tenant(self, exchange: Exchange, credential: Credential) -> None:
        """Count against the quota that all keys of the tenant share, if it has one."""
        tenant = self._tenants.peek(credential.caller.tenant)
        policy = tenant.requests if tenant else None
        if tenant is None or policy is None:
            return
        decision = None
        layer = "tenant"
        if self._key_limiter:
            decision = await self._key_limiter.take(tenant.tenant, "*", policy)
        if decision is None:
            layer = "tenant_local"
            share = policy.shared_by(self._settings.replicas)
            decision = self._local.take(f"tenant|{tenant.tenant}", share, time.monotonic())
        exchange.decisions.append(decision)
        if not decision.allowed:
            await self._refuse(exchange, layer, decision)
        self._count(layer, "allowed")

    async def _check_route(self, exchange: Exchange, route: Route) -> None:
        assert route.ip_quota is not None
        policy = self._route_policies.get(route.path)
        if policy is None:
            quota, window = route.ip_quota
            policy = Policy(f"route:{route.path}", quota, window, quota)
            self._route_policies[route.path] = policy
        await self._check_address(exchange, policy, f"{route.path}|{exchange.network}")

    def _key_policy(self, credential: Credential) -> Policy:
        settings = self._settings
        quota = credential.requests_max or settings.rate_limit_requests
        window = credential.window_s or settings.rate_limit_window_s
        burst = credential.burst or (
            settings.rate_limit_burst if credential.requests_max is None else 0
        )
        policy = self._key_policies.get((quota, window, burst))
        if policy is None:
            if len(self._key_policies) >= _POLICIES_MAX:
                self._key_policies.clear()
            policy = Policy("key", quota, window, burst or quota)
            self._key_policies[quota, window, burst] = policy
        return policy

    async def _refuse(self, exchange: Exchange, layer: str, decision: Decision) -> None:
        """Raise the 429 for one policy."""
        self._count(layer, "refused")
        if decision not in exchange.decisions:
            exchange.decisions.append(decision)
        policy = decision.policy
        await self._events.limit_exceeded(exchange, policy.name)
        wait = retry_after(decision.retry_after_s)
        raise LimitExceededError(
            f"The policy {policy.name} allows {policy.quota} requests per {policy.window_s:g} s.",
            hint=f"Try again in {wait} s.",
            retry_after_s=wait,
            violated=[policy.name],
        )
