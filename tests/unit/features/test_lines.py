"""Streams of lines: cut into parts anywhere, held up by lagging rings, resumed where they ended."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.context import RequestContext, bind
from libs.common.errors import DeadlineExceededError, InvalidInputError, UnavailableError
from services.features import lines
from services.features.lines import LineStream
from services.features.schemas import IngestAnswer

pytestmark = pytest.mark.anyio


class FakeIngestion:
    """Takes parts until `fails_at`; its rings are as far behind as `lags` says, look by look."""

    def __init__(self, *, fails_at: int | None = None, lags: Sequence[int] = ()) -> None:
        self.parts: list[list[Any]] = []
        self._fails_at, self._lags = fails_at, list(lags)

    @property
    def lag_events(self) -> int:
        return self._lags.pop(0) if self._lags else 0

    async def take(self, tenant: str, batch: Sequence[Any], *, is_backfill: bool) -> IngestAnswer:
        if len(self.parts) == self._fails_at:
            raise UnavailableError("The database does not answer.")
        self.parts.append(list(batch))
        return IngestAnswer(accepted=len(batch), duplicates=0, late=0, rejected=[])

    @property
    def taken(self) -> list[Any]:
        return [event for part in self.parts for event in part]


async def _chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    for first in range(0, len(body), size):
        yield body[first : first + size]


def _stream(ingestion: FakeIngestion) -> LineStream:
    fake: Any = ingestion
    return LineStream(fake, "t")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_PAUSE_S", 0.0)
    monkeypatch.setattr(lines, "_RETRY_S", 0.0)
    monkeypatch.setattr(lines, "_LAG_LOOK_S", 0.0)


_LINES = st.lists(st.one_of(st.integers(0, 10**6).map(str), st.sampled_from(["", "  ", "no json"])))


@given(_LINES, st.booleans(), st.integers(1, 40), st.integers(1, 5))
async def test_a_body_gives_the_same_events_however_it_is_cut(
    rows: list[str], has_last_newline: bool, size: int, lines_max: int
) -> None:
    body = "\n".join(rows).encode() + (b"\n" if has_last_newline and rows else b"")
    ingestion = FakeIngestion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_LINES", lines_max)
        answer = await _stream(ingestion).take(_chunks(body, size))
    wanted = [None if row == "no json" else int(row) for row in rows if row.strip()]
    assert ingestion.taken == wanted
    assert answer.accepted == len(wanted)
    assert all(len(part) <= lines_max for part in ingestion.parts)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fails_at", [0, 1, 3])
async def test_a_stream_that_ends_early_says_from_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    monkeypatch.setattr(lines, "_LINES", 4)
    body = b"".join(b"%d \n%b" % (number, b"\n" * (number % 3)) for number in range(30))
    first, second = FakeIngestion(fails_at=fails_at), FakeIngestion()
    with pytest.raises(UnavailableError) as failed:
        await _stream(first).take(_chunks(body, 7))
    said = failed.value.extra
    assert said["lines_taken"] == said["accepted"] == fails_at * 4
    assert failed.value.headers["Retry-After"]
    await _stream(second).take(_chunks(body[said["bytes_taken"] :], 7))
    assert first.taken + second.taken == list(range(30))


async def test_a_stream_waits_as_long_as_the_rings_come_nearer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "_LAG_LOOK_S", 0.0)
    ingestion = FakeIngestion(lags=range(10**6, lines._LAG_MAX, -100_000))
    answer = await _stream(ingestion).take(_chunks(b"1\n", 9))
    assert answer.accepted == 1
    assert not ingestion._lags


@pytest.mark.usefixtures("impatient")
async def test_rings_that_stand_still_end_a_stream_before_anything_is_written() -> None:
    ingestion = FakeIngestion(lags=[lines._LAG_MAX + 1] * 1000)
    with pytest.raises(UnavailableError) as failed:
        await _stream(ingestion).take(_chunks(b"1\n", 9))
    assert failed.value.extra["bytes_taken"] == 0
    assert not ingestion.parts


async def test_a_stream_ends_at_its_deadline_and_says_how_far_it_came() -> None:
    bind(RequestContext(deadline=0.0))
    try:
        with pytest.raises(DeadlineExceededError) as failed:
            await _stream(FakeIngestion()).take(_chunks(b"1\n", 9))
    finally:
        bind(RequestContext())
    assert failed.value.extra["lines_taken"] == 0


@pytest.mark.parametrize(
    "cut", [lambda body: body, lambda body: body[:-1]], ids=["with its newline", "without"]
)
async def test_a_line_too_long_is_named_by_its_number(cut: Callable[[bytes], bytes]) -> None:
    body = cut(b"1\n\n2\n" + b"9" * (lines._LINE_BYTES_MAX + 1) + b"\n")
    with pytest.raises(InvalidInputError) as failed:
        await _stream(FakeIngestion()).take(_chunks(body, 1000))
    assert failed.value.extra["errors"][0]["pointer"] == "/2"
