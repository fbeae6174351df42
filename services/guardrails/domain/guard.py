"""The life of a check: look up, run the validators on what is missing, decide, remember.

Equal texts of a call are computed once, and so are equal texts of concurrent calls. Verdicts are
cached, edited texts are not: edits are applied again on every answer.
"""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from libs.common.errors import InvalidInputError, UnavailableError
from libs.common.logging import get_logger
from services.guardrails.domain import codec
from services.guardrails.domain.decide import decide, judge
from services.guardrails.domain.document import Document
from services.guardrails.domain.operators import TenantKeys
from services.guardrails.domain.policy import Policy, ValidatorRule
from services.guardrails.domain.ports import CheckNow, PolicySource, Validator, VerdictCache
from services.guardrails.domain.trial import Trial
from services.guardrails.domain.verdict import Decision, Detection, Status, Verdict

log = get_logger()


@dataclass(frozen=True)
class Ask:
    """What a caller asks about some texts.

    Attributes:
        tenant: whose policy, keys and cache.
        policy: `id`, `id@version`, or None for the tenant's active policy.
        validators: only these of the policy; None means all.
        ttl_s: lifetime of cached verdicts, 0 for no cache.
        remaining_s: gives the seconds left until the caller's deadline, at most its argument.
    """

    tenant: str
    policy: str | None = None
    validators: tuple[str, ...] | None = None
    ttl_s: int = 0
    remaining_s: Callable[[float], float] = lambda most: most


@dataclass(frozen=True)
class Check:
    """An ask with its policy resolved."""

    tenant: str
    policy: Policy
    ttl_s: int
    remaining_s: Callable[[float], float]


@dataclass(frozen=True)
class Outcome:
    """The policy that decided, and its decisions in the order of the texts."""

    policy: Policy
    decisions: list[Decision]


class Guard:
    """Checks texts with the validators it was given; holds no text between calls."""

    def __init__(
        self,
        validators: Mapping[str, Validator],
        cache: VerdictCache,
        policies: PolicySource,
        secret: bytes,
        *,
        observe: Callable[[Verdict, float], None] = lambda verdict, seconds: None,
    ) -> None:
        self.validators = dict(validators)
        self.policies = policies
        self._cache = cache
        self._secret = secret
        self._observe = observe
        self._keys: dict[str, TenantKeys] = {}
        self._running: dict[str, asyncio.Future[tuple[Verdict, ...]]] = {}

    def keys(self, tenant: str) -> TenantKeys:
        """Give the tenant's keys."""
        keys = self._keys.get(tenant)
        if keys is None:
            keys = self._keys[tenant] = TenantKeys.derive(self._secret, tenant)
        return keys

    def digest(self, tenant: str, text: str) -> str:
        """Give the keyed digest under which a text may appear in the audit log."""
        digest = self.digester(tenant)
        digest.update(text.encode())
        return digest.hexdigest()

    def digester(self, tenant: str) -> hmac.HMAC:
        """Give the same digest for a text that comes in pieces."""
        return hmac.new(self.keys(tenant).cache, b"text\x00", "sha256")

    async def check(self, texts: Sequence[str], ask: Ask) -> Outcome:
        """Decide about each text, in order.

        Raises:
            NotFoundError: no such policy.
            InvalidInputError: the policy has no such validator.
        """
        if not ask.ttl_s:
            # No epoch is read below that would tell of a change.
            await self.policies.refresh(ask.tenant, forced=False)
        check = await self._resolve(ask)
        found, epoch = await self._recall(check, texts)
        if check.ttl_s and epoch != self.policies.epoch(ask.tenant):
            # Somebody published, or Redis forgot: read the policies again before answering.
            await self.policies.refresh(ask.tenant, forced=epoch is not None)
            if epoch is None or epoch < (self.policies.epoch(ask.tenant) or 0):
                await self._mirror(ask.tenant)
            check = await self._resolve(ask)
            found, _ = await self._recall(check, texts)
        epoch = self.policies.epoch(ask.tenant)
        # A model's version may change while it answers; these keys name what was looked up.
        keys = {text: self._cache_key(check, text) for text in dict.fromkeys(texts)}
        missing = {key: text for text, key in keys.items() if key not in found}
        computed = await self._compute(check, missing)
        if check.ttl_s and epoch is not None:
            fresh = {self._cache_key(check, missing[key]): row for key, row in computed.items()}
            await self._remember(check, fresh, epoch)
        verdicts = {**found, **computed}
        of_tenant = self.keys(check.tenant)
        decisions = [
            decide(
                text,
                check.policy.body,
                verdicts[keys[text]],
                of_tenant,
                cached=keys[text] in found,
            )
            for text in texts
        ]
        return Outcome(check.policy, decisions)

    async def forget(self, tenant: str) -> int:
        """Make every cached verdict of the tenant count as absent; give the new epoch.

        Raises:
            UnavailableError: the epoch cannot be stored, or not be shown to the other workers.
        """
        epoch = await self.policies.bump(tenant)
        if not await self._cache.mirror_epoch(tenant, epoch):
            raise UnavailableError(
                "The cache's store does not answer; other workers may remember.",
                hint="Send the request again; it changes nothing twice.",
            )
        return epoch

    async def _mirror(self, tenant: str) -> None:
        epoch = self.policies.epoch(tenant)
        if epoch is not None:
            await self._cache.mirror_epoch(tenant, epoch)

    async def _resolve(self, ask: Ask) -> Check:
        policy = await self.policies.resolve(ask.tenant, ask.policy)
        if ask.validators is not None:
            known = {rule.name for rule in policy.body.validators}
            if not set(ask.validators) <= known:
                raise InvalidInputError.field(
                    "/validators", "names a validator that the policy does not have"
                )
            policy = policy.only(ask.validators)
        return Check(ask.tenant, policy, ask.ttl_s, ask.remaining_s)

    def _cache_key(self, check: Check, text: str) -> str:
        """HMAC over everything that the verdicts depend on."""
        parts = [codec.FORM, f"{check.policy.id}@{check.policy.version}", check.policy.digest]
        for rule in check.policy.body.validators:
            validator = self.validators.get(rule.name)
            version = validator.version if validator else "absent"
            if isinstance(validator, Trial):
                version = validator.version_for(check.tenant, text)
            parts.append(f"{rule.name}@{version}")
        message = "|".join(parts).encode() + b"\x00" + text.encode()
        return hmac.digest(self.keys(check.tenant).cache, message, "sha256").hex()

    async def _recall(
        self, check: Check, texts: Sequence[str]
    ) -> tuple[dict[str, tuple[Verdict, ...]], int | None]:
        """Read epoch and verdicts; a verdict counts only if it carries the epoch just read."""
        if not check.ttl_s:
            return {}, None
        keys = list(dict.fromkeys(self._cache_key(check, text) for text in texts))
        epoch, entries = await self._cache.get(check.tenant, keys)
        found = {
            key: codec.verdicts_from(entry["verdicts"])
            for key, entry in zip(keys, entries, strict=True)
            if entry is not None and epoch is not None and entry["epoch"] == epoch
        }
        return found, epoch

    async def _remember(
        self, check: Check, computed: Mapping[str, tuple[Verdict, ...]], epoch: int
    ) -> None:
        """Store what was computed whole; a timeout or an error is never remembered."""
        entries = {
            key: {"epoch": epoch, "verdicts": codec.verdicts_to(verdicts)}
            for key, verdicts in computed.items()
            if all(verdict.status in {Status.OK, Status.SKIPPED} for verdict in verdicts)
        }
        if entries:
            await self._cache.put(check.tenant, entries, ttl_s=check.ttl_s, epoch=epoch)

    async def _compute(
        self, check: Check, texts: Mapping[str, str]
    ) -> dict[str, tuple[Verdict, ...]]:
        """Compute each text once, joining computations that already run."""
        joined = {key: self._running[key] for key in texts if key in self._running}
        own = [key for key in texts if key not in joined]
        result: dict[str, tuple[Verdict, ...]] = {}
        if own:
            futures = {key: asyncio.get_running_loop().create_future() for key in own}
            self._running.update(futures)
            try:
                rows = await self._run([texts[key] for key in own], check)
                result = dict(zip(own, rows, strict=True))
            finally:
                for key, future in futures.items():
                    del self._running[key]
                    if key in result:
                        future.set_result(result[key])
                    else:
                        future.cancel()
        for key, future in joined.items():
            try:
                result[key] = await asyncio.shield(future)
            except asyncio.CancelledError:
                if not future.cancelled():
                    raise
                # The call that computed it went away; compute it here.
                result.update(await self._compute(check, {key: texts[key]}))
        return result

    async def _run(self, texts: list[str], check: Check) -> list[tuple[Verdict, ...]]:
        """Run all validators of a policy."""
        budget_s = check.remaining_s(check.policy.body.budget_ms / 1e3)
        rules = check.policy.body.validators
        return await self.verdicts(texts, policy=check.policy, rules=rules, budget_s=budget_s)

    async def verdicts(
        self,
        texts: Sequence[str],
        *,
        policy: Policy,
        rules: Sequence[ValidatorRule],
        budget_s: float | None = None,
    ) -> list[tuple[Verdict, ...]]:
        """Run some validators of a policy concurrently, each under its own deadline.

        Args:
            texts: to judge; nothing is cached.
            policy: whose budget holds when `budget_s` is None.
            rules: which of its validators run.
            budget_s: seconds for all of them.

        Returns:
            One row of verdicts per text, in the order of the rules.
        """
        documents = [Document(text) for text in texts]
        if budget_s is None:
            budget_s = policy.body.budget_ms / 1e3
        columns = [self._run_now(rule, documents) for rule in rules]
        waiting = [index for index, column in enumerate(columns) if column is None]
        if waiting:
            late = await asyncio.gather(
                *(self._run_one(rules[index], documents, budget_s) for index in waiting)
            )
            for index, column in zip(waiting, late, strict=True):
                columns[index] = column
        return list(zip(*(column for column in columns if column is not None), strict=True))

    def _version(self, rule: ValidatorRule) -> str:
        validator = self.validators.get(rule.name)
        return validator.version if validator else ""

    def _run_now(self, rule: ValidatorRule, documents: list[Document]) -> list[Verdict] | None:
        """Run a validator that needs neither a deadline nor a task; None where it is another."""
        # By name, not isinstance: asking a protocol costs as much as a short check.
        check_now: CheckNow | None = getattr(self.validators.get(rule.name), "check_now", None)
        if check_now is None:
            return None
        started = time.perf_counter()
        try:
            found = check_now(documents, rule)
        except Exception as error:  # as in `_detect`
            found = self._failed(rule, error, len(documents))
        return None if found is None else self._judged(rule, documents, found, started)

    async def _run_one(
        self, rule: ValidatorRule, documents: list[Document], budget_s: float
    ) -> list[Verdict]:
        started = time.perf_counter()
        detections = await self._detect(rule, documents, budget_s)
        return self._judged(rule, documents, detections, started)

    def _judged(
        self,
        rule: ValidatorRule,
        documents: list[Document],
        detections: list[Detection],
        started: float,
    ) -> list[Verdict]:
        seconds = time.perf_counter() - started
        version = self._version(rule)
        verdicts = [
            judge(document.text, rule, detection, version)
            for document, detection in zip(documents, detections, strict=True)
        ]
        for verdict in verdicts:
            self._observe(verdict, seconds)
        return verdicts

    async def _detect(
        self, rule: ValidatorRule, documents: list[Document], budget_s: float
    ) -> list[Detection]:
        validator = self.validators.get(rule.name)
        if validator is None:
            return [Detection(status=Status.ERROR)] * len(documents)
        try:
            async with asyncio.timeout(min(rule.timeout_ms / 1e3, budget_s)):
                return await validator.check(documents, rule)
        except TimeoutError:
            return [Detection(status=Status.TIMEOUT, version=validator.version)] * len(documents)
        except Exception as error:  # a defect of one validator must not take the others along
            return self._failed(rule, error, len(documents))

    def _failed(self, rule: ValidatorRule, error: Exception, count: int) -> list[Detection]:
        log.error("validator failed", validator=rule.name, error_type=type(error).__name__)
        return [Detection(status=Status.ERROR, version=self._version(rule))] * count
