"""`POST /push`, `/write-to-online-store`, `/materialize`: vectors in, by way of the log.

A push has no id of its own: view, join keys, event time and row are hashed, so that a repeated one
is known. The answer leaves after the Postgres commit and, as far as the appliers keep up, after the
vectors are readable (`_READABLE_S` at most), as clients that write and read expect.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from libs.common.features.computed import entity_key
from libs.common.ids import uuid7
from libs.common.redis import UNAVAILABLE
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.jobs import JobStore
from services.features.adapters.log import PostgresEventLog
from services.features.adapters.rings import RedisRings
from services.features.domain.events import Accepted, Touch
from services.features.domain.pushed import PushedView
from services.features.domain.vectors import Stamp
from services.features.errors import (
    StillMaterializingError,
    UnknownPushSourceError,
    UnknownViewError,
)
from services.features.feast import wire

_READABLE_S, _POLL_S = 2.0, 0.003
_TIME_COLUMN, _CREATED_COLUMN = "event_timestamp", "created"
_MATERIALIZE_BATCH = 2000
TYPE = "pushed"


class FeastWriter:
    """Takes what Feast clients write."""

    def __init__(
        self, definitions: DefinitionStore, log: PostgresEventLog, rings: RedisRings, jobs: JobStore
    ) -> None:
        self._definitions, self._log, self._rings, self._jobs = definitions, log, rings, jobs

    async def push(self, tenant: str, body: bytes) -> None:
        """`POST /push`: to every view of the source."""
        document = wire.parse(body)
        wire.only(
            document,
            {"push_source_name", "df", "allow_registry_cache", "to", "transform_on_write"},
        )
        source = wire.text(document, "push_source_name")
        to = document.get("to", "online")
        if to not in {"online", "offline", "online_and_offline"}:
            raise wire.refuse("/to", "must be online, offline or online_and_offline")
        catalog = await self._definitions.catalog(tenant)
        views = [view for view in catalog.views.values() if view.push_source == source]
        if not views:
            raise UnknownPushSourceError("No feature view takes pushes from this source.")
        for view in views:
            await self._write(tenant, view, document, is_online=to != "offline", is_shared=True)

    async def write(self, tenant: str, body: bytes) -> None:
        """`POST /write-to-online-store`: to one view."""
        document = wire.parse(body)
        known = {"feature_view_name", "df", "allow_registry_cache", "transform_on_write"}
        wire.only(document, known)
        name = wire.text(document, "feature_view_name")
        view = (await self._definitions.catalog(tenant)).views.get(name)
        if view is None:
            raise UnknownViewError("There is no feature view of this name that takes writes.")
        await self._write(tenant, view, document, is_online=True, is_shared=False)

    async def _write(
        self,
        tenant: str,
        view: PushedView,
        document: Mapping[str, Any],
        *,
        is_online: bool,
        is_shared: bool,
    ) -> None:
        columns, height = wire.frame(document)
        events = _events(view, columns, height, is_online=is_online, is_shared=is_shared)
        await self._log.append(tenant, events)
        if is_online:
            await self._readable()

    async def _readable(self) -> None:
        """Wait until the rings hold what the log held now; the log is the truth either way."""
        heads = await self._log.heads()
        deadline = time.monotonic() + _READABLE_S
        while time.monotonic() < deadline:
            try:
                progress = await self._rings.progress()
            except UNAVAILABLE:
                return
            if all(progress.offset(p) >= head.last_offset for p, head in heads.items()):
                return
            await asyncio.sleep(_POLL_S)

    async def begin_materialize(
        self, tenant: str, body: bytes, *, is_incremental: bool, is_forced: bool
    ) -> tuple[str, list[str], int, int]:
        """Check a materialization and note it as running: job id, views, start and end (ms).

        Raises:
            StillMaterializingError: one of the views is being materialized.
        """
        document = wire.parse(body)
        known = {"end_ts", "feature_views", "full_feature_names", "version"}
        wire.only(document, known if is_incremental else known | _FULL_ONLY)
        now_us = time.time_ns() // 1000
        catalog = await self._definitions.catalog(tenant)
        names = document.get("feature_views")
        if names is None:
            names = list(catalog.views)
        if not isinstance(names, list) or any(
            name not in catalog.views for name in map(str, names)
        ):
            raise UnknownViewError("There is no feature view of this name that takes writes.")
        whole = bool(document.get("disable_event_timestamp")) and not is_incremental
        end = (
            Stamp(now_us // 1000)
            if whole
            else wire.timestamp(document.get("end_ts"), "/end_ts", now_us)
        )
        start_ms = 0
        if is_incremental:
            start_ms = await self._jobs.last_end_ms(tenant, names)
        elif not whole:
            start_ms = wire.timestamp(document.get("start_ts"), "/start_ts", now_us).event_ms
        if start_ms > end.event_ms:
            raise wire.refuse("/end_ts", "lies before the start")
        job_id = uuid7()
        details = {"feature_views": names, "start_ms": start_ms, "end_ms": end.event_ms}
        running = await self._jobs.begin(
            tenant, job_id, "materialize", details, is_forced=is_forced
        )
        if running:
            raise StillMaterializingError(
                "A materialization of these views is still running.", feature_views=running
            )
        return job_id, names, start_ms, end.event_ms

    async def materialize(
        self, tenant: str, job_id: str, names: Sequence[str], start_ms: int, end_ms: int
    ) -> None:
        """Bring the newest vector of each entity in `[start, end]` online again, view by view."""
        catalog = await self._definitions.catalog(tenant)
        done = 0
        try:
            for name in names:
                view = catalog.views[name]
                async for rows in self._log.newest_pushed(
                    tenant, name, start_ms, end_ms, _MATERIALIZE_BATCH
                ):
                    touches = [_touch_of(view, orjson.loads(row)) for row in rows]
                    await self._log.append_touches(tenant, touches)
                    done += len(rows)
                    await self._jobs.note(tenant, job_id, done)
        except BaseException:
            await asyncio.shield(self._jobs.end(tenant, job_id, "failed", done))
            raise
        await self._jobs.end(tenant, job_id, "done", done)
        await self._readable()


_FULL_ONLY = {"start_ts", "disable_event_timestamp"}


def _events(
    view: PushedView,
    columns: Mapping[str, Sequence[Any]],
    height: int,
    *,
    is_online: bool,
    is_shared: bool,
) -> list[Accepted]:
    """Turn columns into events, checking every value first."""
    features = [name for name, _ in view.layout.features]
    needed = (*view.join_keys, _TIME_COLUMN)
    for name in needed:
        if name not in columns:
            raise wire.refuse("/df", f"lacks the column {name}")
    unknown = sorted(set(columns) - {*needed, *features, _CREATED_COLUMN})
    if unknown and not is_shared:
        raise wire.refuse(f"/df/{unknown[0][:64]}", "is no feature of the view")
    for name in features:
        for row, value in enumerate(columns.get(name, ())):
            reason = view.layout.check(name, value)
            if reason is None and isinstance(value, float) and value in _INFINITE:
                reason = "must be finite"
            if reason:
                raise wire.refuse(f"/df/{name}/{row}", reason)
    now_us = time.time_ns() // 1000
    events = []
    for row in range(height):
        stamp = wire.timestamp(columns[_TIME_COLUMN][row], f"/df/{_TIME_COLUMN}/{row}", now_us)
        keys = {key: wire.join_value(columns[key][row], key, row, "df") for key in view.join_keys}
        values = {name: _no_nan(columns[name][row]) for name in features if name in columns}
        body = {
            "view": view.name,
            "entities": keys,
            "values": values,
            "sub_us": stamp.sub_us,
            "event_ms": stamp.event_ms,
        }
        digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
        touch = _touch_of(view, body)
        if not is_online:
            # Applied nowhere; erasure finds the event by it.
            touch = Touch(touch.view, touch.entity, b"")
        events.append(
            Accepted(
                f"{TYPE}:{digest}{'' if is_online else ':offline'}",
                TYPE,
                stamp.event_ms,
                now_us // 1000,
                body,
                False,
                (touch,),
            )
        )
    return events


_INFINITE = (float("inf"), float("-inf"))


def _no_nan(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value


def _touch_of(view: PushedView, body: Mapping[str, Any]) -> Touch:
    record = view.layout.pack(Stamp(body["event_ms"], body["sub_us"]), body["values"])
    return Touch(view.name, entity_key([body["entities"][key] for key in view.join_keys]), record)
