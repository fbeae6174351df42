"""One row without texts rendered from its bytes: what the general way gives, or nothing."""

import struct
import time
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from libs.common.features.layout import HEADER
from services.features.adapters.definitions import Catalog
from services.features.domain.pushed import PushedView
from services.features.domain.vectors import Stamp, heads_of
from services.features.feast.plans import Plan, plan_of
from services.features.feast.read import _answer
from services.features.feast.views import Shown, show_pushed
from services.features.feast.wire import ReadRequest

_NUMBERS = {
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "float32": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "bool": st.booleans(),
}


def _now_ms() -> int:
    """Give the wall clock, which the general way asks too: long runs import this file early."""
    return time.time_ns() // 1_000_000


def _view(name: str, number: int, features: list[tuple[str, str]]) -> PushedView:
    document: dict[str, Any] = {
        "name": name,
        "features": [{"name": feature, "dtype": dtype} for feature, dtype in features],
        "join_keys": ["card_id"],
        "ttl_s": 600,
    }
    return PushedView.of(document, 1, 1000 + number)


def _catalog(views: list[PushedView]) -> Catalog:
    return Catalog(
        views={view.name: view for view in views},
        versions={(view.name, 1): view for view in views},
        by_schema={view.layout.schema_id: view for view in views},
        services={},
        documents={},
    )


def _request(features: list[str], entities: dict[str, list[Any]]) -> ReadRequest:
    return ReadRequest(entities, 1, features, None, False, False)


def _generally(plan: Plan, request: ReadRequest, catalog: Catalog, blobs: list[Any]) -> bytes:
    shown: dict[str, Shown] = {}
    for (named, part), blob in zip(plan.parts.items(), blobs, strict=True):
        assert part.pushed is not None
        heads = heads_of([blob] if blob is not None else [])
        shown[named] = show_pushed(part.pushed, part.features, catalog, [blob], heads)
    return _answer(plan.head(request), request, plan, shown)


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[list[PushedView], list[bytes], list[str]]:
    """Draw views of plain numbers, a usual blob of each, and some of their features, shuffled."""
    views, blobs, references = [], [], []
    for number in range(draw(st.integers(1, 3))):
        dtypes = draw(st.lists(st.sampled_from(sorted(_NUMBERS)), min_size=1, max_size=20))
        names = [f"f{number}_{place}" for place in range(len(dtypes))]
        kinds = dict(zip(names, dtypes, strict=True))
        view = _view(f"v{number}", number, list(kinds.items()))
        values = {name: draw(_NUMBERS[dtype]) for name, dtype in kinds.items()}
        stamp = Stamp(_now_ms() - draw(st.integers(0, 500_000)), draw(st.integers(0, 999)))
        views.append(view)
        blobs.append(view.layout.pack(stamp, values))
        chosen = draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
        references += [f"v{number}:{name}" for name in chosen]
    return views, blobs, draw(st.permutations(references))


@given(_worlds(), st.one_of(st.integers(0, 2**40), st.text(min_size=1, max_size=9)))
def test_a_usual_row_is_rendered_as_the_general_way_renders_it(
    world: tuple[list[PushedView], list[bytes], list[str]], card: int | str
) -> None:
    views, blobs, references = world
    catalog = _catalog(views)
    request = _request(references, {"card_id": [card]})
    plan = plan_of(catalog, request)
    assert plan.quick is not None
    mine = [blobs[int(named[1:])] for named in plan.parts]
    answer = plan.quick.render(plan.head(request), request.entities, mine, _now_ms())
    assert answer is not None
    assert answer[0] == _generally(plan, request, catalog, mine)
    assert answer[1] == [struct.unpack_from("<Q", blob, 8)[0] for blob in mine]


def test_what_is_not_usual_is_left_to_the_general_way() -> None:
    view = _view("v0", 0, [("a", "float64"), ("b", "float64")])
    request = _request(["v0:b"], {"card_id": ["c"]})
    plan = plan_of(_catalog([view]), request)
    assert plan.quick is not None
    usual = view.layout.pack(Stamp(_now_ms()), {"a": 1.0, "b": 2.5})
    other = _view("v0", 7, [("a", "float64"), ("b", "float64")])
    unusual = {
        "absent": None,
        "short": usual[:-1],
        "foreign": b"\0\0" + usual[2:],
        "of another version": other.layout.pack(Stamp(_now_ms()), {"a": 1.0, "b": 2.5}),
        "with a null": view.layout.pack(Stamp(_now_ms()), {"a": 1.0}),
        "too old": view.layout.pack(Stamp(_now_ms() - 600_001), {"a": 1.0, "b": 2.5}),
        "infinite": view.layout.pack(Stamp(_now_ms()), {"a": 1.0, "b": float("inf")}),
    }
    head = plan.head(request)
    quick = plan.quick
    told = {
        why: quick.render(head, request.entities, [blob], _now_ms())
        for why, blob in unusual.items()
    }
    assert told == dict.fromkeys(unusual)
    found = quick.render(head, request.entities, [usual], _now_ms())
    assert found is not None
    assert orjson.loads(found[0])["results"][1]["values"] == [2.5]
    assert len(usual) > HEADER.size


def test_a_view_with_a_text_is_not_quick() -> None:
    view = _view("v", 1, [("a", "float64"), ("b", "string")])
    assert plan_of(_catalog([view]), _request(["v:a"], {"card_id": [1]})).quick is None
