"""How long a refusal takes tells nothing about the key: neither that it exists nor what fits."""

import statistics
import time

import pytest

from libs.common.context import Caller
from libs.common.errors import UnauthenticatedError
from services.gateway.adapters.authenticator import Authenticator
from services.gateway.domain import keys
from services.gateway.domain.ports import Credential, StoredKey

pytestmark = pytest.mark.anyio
PEPPER = b"p" * 32
ROUNDS = 1_500


class OneKey:
    """A store with one key, which answers at once."""

    def __init__(self, key_id: str, text: str) -> None:
        caller = Caller("default", f"key:{key_id}", frozenset({"models:read"}))
        self._row = StoredKey(Credential(key_id, caller), keys.digest(PEPPER, text), revoked=False)
        self._id = key_id

    async def find(self, key_id: str) -> StoredKey | None:
        return self._row if key_id == self._id else None


def with_checksum(body: str) -> str:
    return body + keys.checksum(body)


def changed(text: str, position: int) -> str:
    """Change one character of the secret, with a checksum that fits."""
    body = text[: -keys.CHECKSUM_LENGTH]
    other = "A" if body[position] != "A" else "B"
    return with_checksum(body[:position] + other + body[position + 1 :])


async def test_near_misses_far_misses_and_unknown_ids_take_equally_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key_id, text = keys.new_key()
    authenticator = Authenticator(OneKey(key_id, text), PEPPER, fresh_s=30, stale_s=600)
    compared: list[tuple[int, int]] = []
    same = keys.same

    def counted(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return same(left, right)

    monkeypatch.setattr(keys, "same", counted)
    presented = {
        "first character": changed(text, len("gh_") + keys.ID_LENGTH + 1),
        "last character": changed(text, -1 - keys.CHECKSUM_LENGTH),
        "another secret": with_checksum(text[:16] + keys.new_key()[1][16 : -keys.CHECKSUM_LENGTH]),
        "unknown id": keys.new_key()[1],
    }
    seconds: dict[str, list[int]] = {name: [] for name in presented}
    for _ in range(ROUNDS):
        for name, token in presented.items():
            started = time.perf_counter_ns()
            with pytest.raises(UnauthenticatedError):
                await authenticator.verify(token)
            seconds[name].append(time.perf_counter_ns() - started)
    # Each refusal computed one digest and compared 32 bytes with 32 bytes.
    assert compared == [(32, 32)] * (ROUNDS * len(presented))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    assert max(medians.values()) < 1.25 * min(medians.values()), medians
    assert (await authenticator.verify(text)).key_id == key_id
