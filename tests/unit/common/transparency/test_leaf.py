"""Leaves are canonical JSON whatever the event is called."""

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from libs.common.transparency.leaf import leaf_bytes

_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@given(_TEXT, _TEXT, _TEXT, st.none() | _TEXT)
def test_a_leaf_is_exactly_its_rfc_8785_form(event_id, source, kind, subject):
    data = leaf_bytes(
        event_id=event_id,
        source=source,
        event_type=kind,
        ingested_at="2026-01-01T00:00:00.000Z",
        retention="standard",
        subject=subject,
        commitment="0" * 64,
    )
    import json

    assert data == rfc8785.dumps(json.loads(data))
