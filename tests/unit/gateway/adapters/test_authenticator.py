"""A credential that was verified before goes on while the store is late, refused or gone."""

import asyncio
import time

import pytest

from libs.common.context import Caller
from libs.common.errors import UnauthenticatedError, UnavailableError
from services.gateway.adapters.authenticator import Authenticator
from services.gateway.domain import keys
from services.gateway.domain.ports import Credential, StoredKey

pytestmark = pytest.mark.anyio
PEPPER = b"p" * 32


class Store:
    """One key; a store that can be late, or gone."""

    def __init__(self) -> None:
        self.key_id, self.text = keys.new_key()
        self.is_revoked = False
        self.late_s = 0.0
        self.asked = 0

    async def find(self, key_id: str) -> StoredKey | None:
        self.asked += 1
        if self.late_s:
            await asyncio.sleep(self.late_s)
            raise UnavailableError("The database does not answer.")
        caller = Caller("default", f"key:{key_id}", frozenset({"models:read"}))
        mac = keys.digest(PEPPER, self.text)
        return StoredKey(Credential(key_id, caller), mac, revoked=self.is_revoked)


async def known(store: Store, clock: list[float]) -> Authenticator:
    """Give an authenticator that verified the key 31 s ago."""
    made = Authenticator(store, PEPPER, fresh_s=30, stale_s=600, now=lambda: clock[0])
    await made.verify(store.text)
    clock[0] += 31
    return made


async def test_a_late_store_holds_no_call_of_a_known_key_up() -> None:
    store, clock = Store(), [0.0]
    authenticator = await known(store, clock)
    store.late_s = 0.5
    taken = []

    async def call() -> None:
        started = time.perf_counter()
        assert (await authenticator.verify(store.text)).key_id == store.key_id
        taken.append(time.perf_counter() - started)

    await asyncio.gather(*(call() for _ in range(50)))
    assert store.asked == 2  # the first verification, and one for all fifty
    assert sorted(taken)[40] < 0.05
    assert max(taken) < 0.3
    await asyncio.sleep(0.6)
    assert not authenticator._refreshing


async def test_a_key_that_was_revoked_meanwhile_is_refused_at_its_next_verification() -> None:
    store, clock = Store(), [0.0]
    authenticator = await known(store, clock)
    store.is_revoked = True
    with pytest.raises(UnauthenticatedError):
        await authenticator.verify(store.text)
    store.late_s = 0.01
    with pytest.raises(UnavailableError):
        await authenticator.verify(store.text)  # nothing is known of it any more


async def test_after_the_longest_belief_the_store_decides() -> None:
    store, clock = Store(), [0.0]
    authenticator = await known(store, clock)
    store.late_s = 0.01
    clock[0] += 600
    with pytest.raises(UnavailableError):
        await authenticator.verify(store.text)
