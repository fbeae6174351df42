"""Charts and the report as a page, over HTTP; the pictures are read, not looked at."""

import asyncio
import subprocess
import sys
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.integration.analytics.conftest import Running, Start
from tests.support.predictions import model_drift, prediction

pytestmark = pytest.mark.anyio
SVG = "{http://www.w3.org/2000/svg}"


async def seed(running: Running, **data: Any) -> None:
    now = datetime.now(UTC)
    running.log.append(
        *(
            prediction(
                now - timedelta(minutes=2 + i % 25, seconds=i % 50),
                latency_ms={"total": 20.0 + i % 100},
                score=(i % 97) / 97,
                **data,
            )
            for i in range(600)
        )
    )
    await running.counted(600)


def texts(svg: bytes) -> set[str]:
    return {"".join(node.itertext()).strip() for node in ET.fromstring(svg).iter(f"{SVG}text")}


CHARTS = {
    "latency.svg?time_window_minutes=30": {"Latency", "p50", "p95", "p99", "warning", "ms"},
    "latency.svg?time_window_minutes=1440": {"Latency", "p95"},
    "confidence.svg?time_window_minutes=30&model=sentiment": {
        "Average confidence of sentiment", "mean", "critical",
    },
    "distribution.svg?time_window_minutes=10": {"share", "now", "before"},
    "distribution.svg?time_window_minutes=10&metric=latency_ms": {"ms"},
    "distribution.svg?time_window_minutes=10&metric=label": {"positive"},
    "drift.svg?time_window_minutes=10": {"sentiment 1 score ("},
}  # fmt: skip


async def test_each_chart_is_an_svg_document_with_its_names_as_text(start: Start):
    async with start() as running:
        await seed(running)
        for path, shown in CHARTS.items():
            answer = await running.client.get(f"/v1/analytics/charts/{path}")
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "image/svg+xml"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            found = texts(answer.content)
            assert all(any(text.startswith(name) for text in found) for name in shown), path


async def test_the_drift_chart_shows_inputs_against_training(start: Start):
    async with start() as running:
        running.log.append(model_drift())
        await seed(running)
        answer = await running.client.get("/v1/analytics/charts/drift.svg?time_window_minutes=10")
        assert {
            "fraud 2 input amount (major)", "fraud 2 input hour (none)",
            "fraud 2 score against training (none)",
        } <= texts(answer.content)  # fmt: skip


async def test_the_line_of_a_percentile_has_a_point_per_minute_with_traffic(start: Start):
    async with start() as running:
        await seed(running)
        answer = await running.client.get("/v1/analytics/charts/latency.svg?time_window_minutes=20")
        markers = [
            len(list(group.iter(f"{SVG}use")))
            for group in ET.fromstring(answer.content).iter(f"{SVG}g")
            if group.get("id", "").startswith("line2d_")
        ]
        # Three percentiles; the running and the last open minute have no events.
        assert sorted(markers)[-3:] in ([19, 19, 19], [20, 20, 20])


async def test_an_empty_window_says_no_data_and_a_name_is_never_markup_or_formula(start: Start):
    async with start() as running:
        empty = await running.client.get("/v1/analytics/charts/latency.svg")
        assert "no data" in texts(empty.content)
        await seed(running, model="<script>$\\frac$&", version="1")
        drawn = await running.client.get("/v1/analytics/charts/drift.svg?time_window_minutes=10")
        assert b"<script" not in drawn.content
        assert any(text.startswith("<script>$\\frac$& 1 score (") for text in texts(drawn.content))
        page = (await running.client.get("/v1/analytics/report.html")).text
        assert "<script" not in page


async def test_bad_questions_are_refused(start: Start):
    async with start() as running:
        for path in (
            "latency.svg?time_window_minutes=0",
            "latency.svg?time_window_minutes=1441",
            "distribution.svg?metric=colour",
            "drift.svg?width=9",
        ):
            answer = await running.client.get(f"/v1/analytics/charts/{path}")
            assert answer.status_code == 422, path


async def test_charts_asked_for_at_once_are_drawn_one_after_the_other_and_kept(start: Start):
    async with start() as running:
        await seed(running)
        path = "/v1/analytics/charts/latency.svg?time_window_minutes=20"
        several = await asyncio.gather(*(running.client.get(path) for _ in range(8)))
        assert {answer.status_code for answer in several} == {200}
        again = await running.client.get(path)
        assert again.content in {answer.content for answer in several}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[bytes] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        source = dict(attrs).get("src")
        if source:
            self.images.append(b64decode(source.partition("base64,")[2]))


async def test_the_report_is_a_page_that_loads_nothing_and_holds_its_charts(start: Start):
    async with start() as running:
        await seed(running, status="failed", reason="timeout")
        answer = await running.client.get("/v1/analytics/report.html?time_window_minutes=30")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        page = _Page()
        page.feed(answer.text)
        assert len(page.images) == 4
        assert all(ET.fromstring(image).tag == f"{SVG}svg" for image in page.images)
        assert page.tags.isdisjoint({"script", "link", "iframe", "a", "form"})
        assert "Written by rules, because no_key" in answer.text
        assert "Error rate of 100.00 %" in answer.text


def test_the_plotting_library_is_not_loaded_before_the_first_chart():
    code = (
        "import sys; import services.analytics.app; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'numpy', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
