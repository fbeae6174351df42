"""Words in events: which are asked about, how they are masked, what is done without an answer."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from libs.common.errors import UnavailableError
from libs.common.events.envelope import Event
from libs.common.events.registry import EVENT_TYPES
from libs.common.http_client import Reply
from services.audit.adapters import anonymizer as module
from services.audit.adapters.anonymizer import Anonymizer
from services.audit.domain.events import Accepted, accept
from services.audit.domain.texts import WITHHELD, Finding, mask, texts_of


def change(**data: object) -> Accepted:
    event = Event(
        type="tenant.changed",
        source="gateway",
        event_class="required",
        data={"what": "contact of Ada Byron", "by": "key:demo", **data},
        tenant="default",
        principal="key:demo",
    )
    found = accept(event.to_wire(), "gateway")
    assert isinstance(found, Accepted)
    return found


class _Guardrails:
    """Finds every `Ada`, as the running service finds names of people."""

    def __init__(self, status: int = 200, fault: Exception | None = None) -> None:
        self.asked: list[list[str]] = []
        self._status = status
        self._fault = fault

    async def request(self, method: str, path: str, **call: object) -> Reply:
        if self._fault:
            raise self._fault
        texts = call["json"]["text"]  # type: ignore[index] # the body that the adapter sends
        self.asked.append(texts)
        items = [
            [{"start": at, "end": at + 3, "entity_type": kind, "score": 0.9}]
            if (at := text.find("Ada")) >= 0
            else []
            for text in texts
            for kind in ("DATE_TIME" if "date" in text else "PERSON",)
        ]
        return Reply(self._status, {}, orjson.dumps(items))


def cleaner(guardrails: _Guardrails) -> tuple[Anonymizer, CollectorRegistry]:
    registry = CollectorRegistry()
    return Anonymizer(guardrails, registry), registry  # type: ignore[arg-type] # same method


@pytest.mark.anyio
async def test_texts_at_any_depth_are_masked_and_nothing_else_is_touched():
    event = change(**{"from": {"contacts": ["Ada", {"n": 3, "m": "ok"}]}, "to": "to Ada!"})
    guardrails = _Guardrails()
    clean, registry = cleaner(guardrails)
    (done,) = await clean.clean([event])
    assert guardrails.asked == [["Ada", "ok", "to Ada!"]]
    assert done.document["data"] == {
        "what": "contact of Ada Byron",
        "by": "key:demo",
        "from": {"contacts": ["<PERSON>", {"n": 3, "m": "ok"}]},
        "to": "to <PERSON>!",
    }
    assert orjson.loads(done.encoded) == done.document
    assert (done.id, done.source, done.tenant) == (event.id, event.source, event.tenant)
    for outcome, count in {"masked": 2, "kept": 1}.items():
        labels = {"outcome": outcome}
        assert registry.get_sample_value("gatehouse_audit_texts_total", labels) == count


@pytest.mark.anyio
@pytest.mark.parametrize(
    "guardrails",
    [
        _Guardrails(status=503),
        _Guardrails(fault=UnavailableError("gone")),
        _Guardrails(fault=TimeoutError()),
    ],
)
async def test_what_nobody_judged_is_withheld_and_the_event_is_still_taken(guardrails):
    clean, registry = cleaner(guardrails)
    (done,) = await clean.clean([change(reason="Ada asked", to={"limit": 5})])
    assert done.document["data"]["reason"] == WITHHELD
    assert done.document["data"]["to"] == {"limit": 5}
    labels = {"outcome": "withheld"}
    assert registry.get_sample_value("gatehouse_audit_texts_total", labels) == 1


@pytest.mark.anyio
async def test_many_texts_go_in_several_calls_and_times_are_kept(monkeypatch):
    monkeypatch.setattr(module, "TEXTS_MAX", 2)
    guardrails = _Guardrails()
    clean, _ = cleaner(guardrails)
    events = [change(reason=f"Ada {i}") for i in range(3)] + [change(reason="date Ada")]
    done = await clean.clean(events)
    assert [event.document["data"]["reason"] for event in done] == [
        "<PERSON> 0",
        "<PERSON> 1",
        "<PERSON> 2",
        "date Ada",
    ]
    assert [len(texts) for texts in guardrails.asked] == [2, 2]


@pytest.mark.anyio
async def test_events_without_words_cost_no_call():
    guardrails = _Guardrails()
    clean, _ = cleaner(guardrails)
    event = change(to={"limit": 5}, reason="")
    assert await clean.clean([event]) == [event]
    assert guardrails.asked == []


@given(
    st.text("ab", max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(1, 8)), max_size=6),
)
def test_no_masked_character_is_left_and_every_other_stays(text, spans):
    found = [Finding(a, min(a + n, len(text)), "X") for a, n in spans if a < len(text)]
    covered = {i for item in found for i in range(item.start, item.end)}
    kept = "".join(char for i, char in enumerate(text) if i not in covered)
    assert mask(text, found).replace("<X>", "") == kept


def test_marked_members_exist_and_are_marked_once():
    for kind in EVENT_TYPES.values():
        assert kind.text <= kind.fields
        assert kind.personal <= kind.fields
        assert not kind.text & kind.personal
    assert texts_of(change(reason="a", evidence="b")) == {"a"}
