"""What the domain needs from outside, by role. Adapters implement these; each says how it fails."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from services.guardrails.domain.document import Document
from services.guardrails.domain.policy import Policy, ValidatorRule
from services.guardrails.domain.verdict import Detection


class Validator(Protocol):
    """One way to judge texts.

    `name` is stable, `version` changes with the rules or the model. `max_span` bounds the length of
    a finding in characters and `lookahead` how far beyond its end a validator must see to be sure;
    together they are what a stream holds back. `check` never edits and never raises for a text: a
    text that could not be judged gets a detection with a status. It may raise only on a defect,
    which the caller turns into ERROR.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    max_span: int
    lookahead: int

    @property
    def version(self) -> str:
        """Version of the rules or the model."""
        ...

    def parse(self, params: Mapping[str, Any]) -> Any:
        """Turn a policy's parameters into what `check` takes.

        Raises:
            ParamsError: a parameter is unknown or wrong.
        """
        ...

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Judge the texts, one detection each, in order."""
        ...


# A validator that judges short texts in microseconds, without waiting for anything, has a method
# `check_now` that does what `check` does; it gives None where it would take a while.
CheckNow = Callable[[Sequence[Document], ValidatorRule], list[Detection] | None]


class VerdictCache(Protocol):
    """Remembers verdicts. Fails open: a store that is down remembers nothing."""

    async def get(
        self, tenant: str, keys: Sequence[str]
    ) -> tuple[int | None, list[dict[str, Any] | None]]:
        """Give the tenant's epoch (None when unknown) and what is stored under the keys."""
        ...

    async def put(
        self, tenant: str, entries: Mapping[str, dict[str, Any]], *, ttl_s: int, epoch: int
    ) -> None:
        """Store entries for `ttl_s` seconds under the epoch they were computed in."""
        ...

    async def mirror_epoch(self, tenant: str, epoch: int) -> bool:
        """Show the epoch to every worker; say whether it is stored. It never goes backwards."""
        ...


class PolicySource(Protocol):
    """Where policies come from. Fails closed: an unknown policy is NotFoundError."""

    async def resolve(self, tenant: str, reference: str | None) -> Policy:
        """Give the policy named `id`, `id@version`, or the tenant's active one when None."""
        ...

    def epoch(self, tenant: str) -> int | None:
        """Give the counter of the tenant's policy changes as this process knows it."""
        ...

    async def refresh(self, tenant: str, *, forced: bool) -> None:
        """Read the tenant's state again; with the store down the last known state stays.

        Args:
            tenant: whose.
            forced: the epoch is known to have moved; else a read of the last second is enough.
        """
        ...

    async def bump(self, tenant: str) -> int:
        """Raise the tenant's epoch and give it: every verdict cached before counts as absent.

        Raises:
            UnavailableError: the epoch cannot be stored.
        """
        ...
