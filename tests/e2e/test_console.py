"""The console's pages over the running suite: everything they read is there."""

import re
import time

import httpx2
import pytest

HTML = {"Accept": "text/html"}
PAGES = (
    "", "/request", "/models", "/analytics", "/guardrails", "/features", "/audit", "/system",
    "/audit?type=prediction.made&data_subject=nobody&since=2026-01-01T00:00:00Z",
)  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_a_page_reads_all_that_it_shows(gateway: httpx2.Client, path: str) -> None:
    answer = gateway.get(f"/console{path}", headers=HTML)
    assert answer.status_code == 200
    assert "could not be read" not in answer.text


def test_a_request_is_followed_to_its_proven_record(gateway: httpx2.Client) -> None:
    form = {"kind": "sentiment", "body": '{"text": "What a fine day."}'}
    page = gateway.post("/console/request", headers=HTML, data=form)
    assert page.status_code == 200
    found = re.search(r'data-source="([^"]+)"', page.text)
    assert found
    story = found[1].replace("&amp;", "&")
    until = time.monotonic() + 20
    while 'data-done="true"' not in (text := gateway.get(f"{story}&fragment=1").text):
        assert time.monotonic() < until, text
        time.sleep(0.3)
    assert "Included." in text
    assert "cosigned by its witness" in text
    # Every hop is recorded, whatever share of traces is recorded otherwise.
    assert "inference" in text
