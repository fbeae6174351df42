"""Definitions that tenants bring: feature views, pushed or computed, and feature services. Pure.

A document is checked as a whole before anything is kept; `plan` says what applying would change.
Changing a view's features makes a new version with a schema id of its own: vectors written under
an older one stay readable.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from libs.common.features.columns import STORED
from libs.common.features.layout import VIEWS
from libs.common.features.shipped import SHIPPED
from services.features.domain import computed
from services.features.domain.definitions import FEATURE_SERVICES
from services.features.domain.names import NAME, DefinitionError
from services.features.domain.vectors import DTYPES, VectorLayout

FEATURES_MAX = 512
TTL_S_MAX = 400 * 86_400
_VIEW_KEYS = {
    "kind",
    "name",
    "join_keys",
    "features",
    "ttl_s",
    "push_source",
    "source",
    "engine",
    "lateness_s",
    "owner",
    "description",
}
_SERVICE_KEYS = {"kind", "name", "features", "owner", "description"}
_TEXT_MAX = 500


@dataclass(frozen=True)
class PushedView:
    """One version of a pushed view.

    Attributes:
        version: 1, 2, ... within the view.
        layout: features and schema id of this version.
        join_keys: sorted by name.
        ttl_ms: age after which a value is OUTSIDE_MAX_AGE; keys expire at twice that.
        push_source: name under which `POST /push` reaches the view.
        document: as applied.
    """

    name: str
    version: int
    layout: VectorLayout
    join_keys: tuple[str, ...]
    ttl_ms: int
    push_source: str
    document: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any], version: int, schema_id: int) -> "PushedView":
        """Build from a checked document."""
        features = tuple((item["name"], item["dtype"]) for item in document["features"])
        return cls(
            document["name"],
            version,
            VectorLayout(schema_id, features),
            tuple(sorted(document["join_keys"])),
            document["ttl_s"] * 1000,
            document.get("push_source", document["name"]),
            document,
        )


def check(document: Any) -> None:
    """Check one document.

    Raises:
        DefinitionError: at the first mistake.
    """
    if not isinstance(document, dict):
        raise DefinitionError("", "must be an object")
    kind = document.get("kind")
    if kind not in {"feature_view", "feature_service"}:
        raise DefinitionError("/kind", "must be feature_view or feature_service")
    unknown = sorted(set(document) - (_VIEW_KEYS if kind == "feature_view" else _SERVICE_KEYS))
    if unknown:
        raise DefinitionError("/" + unknown[0][:64], "is not known here")
    _name(document.get("name"), "/name")
    for key in ("owner", "description"):
        text = document.get(key, "")
        if not isinstance(text, str) or len(text) > _TEXT_MAX:
            raise DefinitionError(f"/{key}", f"must be text of at most {_TEXT_MAX} characters")
    if kind == "feature_view":
        _check_view(document)
    else:
        _check_service(document)


def _name(value: Any, pointer: str) -> str:
    if not isinstance(value, str) or not NAME.match(value):
        raise DefinitionError(pointer, "must be a name of letters, digits and _, at most 64")
    return value


def _check_view(document: Mapping[str, Any]) -> None:
    if document["name"] in VIEWS or document["name"] in SHIPPED:
        raise DefinitionError("/name", "belongs to a view that is computed from events")
    if document["name"] == "ring":
        raise DefinitionError("/name", "is reserved")
    keys = _list(document, "join_keys", 4)
    for index, key in enumerate(keys):
        _name(key, f"/join_keys/{index}")
    if len(set(keys)) < len(keys):
        raise DefinitionError("/join_keys", "must not repeat a name")
    ttl_s = document.get("ttl_s")
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int) or not 1 <= ttl_s <= TTL_S_MAX:
        raise DefinitionError("/ttl_s", f"must be a whole number from 1 to {TTL_S_MAX}")
    features = _list(document, "features", FEATURES_MAX)
    if "source" not in document:
        _check_pushed(document, keys, features)
        return
    if "push_source" in document:
        raise DefinitionError("/push_source", "a computed view takes no pushes")
    computed.check_source(document)


def _check_pushed(document: Mapping[str, Any], keys: list[Any], features: list[Any]) -> None:
    for key in ("engine", "lateness_s"):
        if key in document:
            raise DefinitionError(f"/{key}", "belongs to a view with a source")
    seen = set(keys)
    for index, feature in enumerate(features):
        pointer = f"/features/{index}"
        if not isinstance(feature, dict) or set(feature) - {"name", "dtype", "description"}:
            raise DefinitionError(pointer, "must be an object with name and dtype")
        name = _name(feature.get("name"), f"{pointer}/name")
        if name in seen:
            raise DefinitionError(f"{pointer}/name", "is used already")
        seen.add(name)
        if feature.get("dtype") not in DTYPES:
            raise DefinitionError(f"{pointer}/dtype", f"must be one of {', '.join(DTYPES)}")
    if "push_source" in document:
        _name(document["push_source"], "/push_source")


def _check_service(document: Mapping[str, Any]) -> None:
    if document["name"] in {service.name for service in FEATURE_SERVICES}:
        raise DefinitionError("/name", "belongs to a service of a released model")
    for index, reference in enumerate(_list(document, "features", FEATURES_MAX)):
        if not isinstance(reference, str) or reference.count(":") != 1:
            raise DefinitionError(f"/features/{index}", "must be view:feature")


def _list(document: Mapping[str, Any], key: str, most: int) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise DefinitionError(f"/{key}", f"must be a list of 1 to {most}")
    return value


def fingerprint_of(document: Mapping[str, Any]) -> str:
    """Hash a document's canonical JSON."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Change:
    """What applying one document does."""

    action: Literal["create", "update", "unchanged"]
    kind: str
    name: str
    from_fingerprint: str | None
    to_fingerprint: str
    details: tuple[str, ...]


def plan(
    current: Mapping[tuple[str, str], Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]
) -> list[Change]:
    """Compare checked documents with those that serve, by (kind, name).

    Raises:
        DefinitionError: a view would change its join keys, which its vectors are stored under; a
            name comes twice; a service names a feature that nobody defines.
    """
    changes = []
    after_all = {**current, **{(item["kind"], item["name"]): item for item in wanted}}
    names = [(item["kind"], item["name"]) for item in wanted]
    known = {
        f"{name}:{feature['name']}"
        for (kind, name), view in after_all.items()
        if kind == "feature_view"
        for feature in view["features"]
    }
    known |= {f"{view.name}:{item.name}" for view in SHIPPED.values() for item in view.aggregates}
    for index, document in enumerate(wanted):
        if names.count((document["kind"], document["name"])) > 1:
            raise DefinitionError(f"/{index}/name", "comes twice")
        if document["kind"] == "feature_service":
            for place, reference in enumerate(document["features"]):
                if reference not in known and reference not in STORED:
                    raise DefinitionError(f"/{index}/features/{place}", "is not defined")
    for index, document in enumerate(wanted):
        kind, name = document["kind"], document["name"]
        before, after = current.get((kind, name)), fingerprint_of(document)
        if before is None:
            changes.append(Change("create", kind, name, None, after, ()))
            continue
        if kind == "feature_view" and set(before["join_keys"]) != set(document["join_keys"]):
            raise DefinitionError(f"/{index}/join_keys", "cannot change; make another view")
        if ("source" in before) != ("source" in document):
            raise DefinitionError(f"/{index}/source", "cannot come or go; make another view")
        old = fingerprint_of(before)
        action: Literal["update", "unchanged"] = "unchanged" if old == after else "update"
        changes.append(Change(action, kind, name, old, after, _differences(before, document)))
    return changes


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    found = []
    for key in sorted(set(before) | set(after)):
        if before.get(key) == after.get(key):
            continue
        if key != "features":
            found.append(f"{key} changes")
            continue
        old, new = _feature_set(before), _feature_set(after)
        found += [f"feature {name} goes" for name in sorted(set(old) - set(new))]
        found += [f"feature {name} comes" for name in sorted(set(new) - set(old))]
        found += [
            f"feature {name} changes its type"
            if "{" not in old[name] + new[name]
            else f"feature {name} is computed otherwise"
            for name in sorted(set(old) & set(new))
            if old[name] != new[name]
        ]
        if not found:
            found.append("features change their order")
    return tuple(found)


def _feature_set(document: Mapping[str, Any]) -> dict[str, str]:
    return {
        item if isinstance(item, str) else item["name"]: _kind_of(item)
        for item in document["features"]
    }


def _kind_of(feature: Any) -> str:
    """Tell one feature's type, or how it is computed, from another's."""
    if isinstance(feature, str):
        return ""
    if "dtype" in feature:
        return str(feature["dtype"])
    return json.dumps({**feature, "description": ""}, sort_keys=True)
