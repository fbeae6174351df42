"""What a set of features means under one state of the definitions. Pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from libs.common.errors import UnavailableError
from libs.common.features import columns as ring_columns
from libs.common.features.computed import ComputedView
from libs.common.features.layout import VIEWS
from libs.common.features.shipped import SHIPPED
from services.features.adapters.definitions import Catalog
from services.features.domain.definitions import FEATURE_SERVICES
from services.features.domain.pushed import PushedView
from services.features.errors import UnknownServiceError, UnknownViewError
from services.features.feast.quick import QuickPlan
from services.features.feast.wire import ReadRequest, refuse

# The label in metrics of all views that tenants bring: their names have no bound.
TENANTS = "tenant"

_RING_VERSION = 1
# Per built-in view, the features that need no request.
_STORED = {
    view: [name.partition(":")[2] for name in ring_columns.STORED if name.startswith(f"{view}:")]
    for view in VIEWS
}
_VERSION = re.compile(r"^v[0-9]{1,6}$")
_HEADS_MAX = 8


@dataclass(slots=True)
class Part:
    """What one view contributes to a read.

    Attributes:
        pushed: the version that was asked for; None for a view computed from events.
        defined: likewise, of a view that is computed by definition; both None: built in.
        features: names of the asked features.
        join_keys: of the view, sorted.
    """

    name: str
    pushed: PushedView | None
    features: list[str]
    join_keys: tuple[str, ...]
    defined: ComputedView | None = None

    @property
    def version(self) -> int:
        """The version that is read."""
        known = self.pushed or self.defined
        return known.version if known else _RING_VERSION

    @property
    def label(self) -> str:
        """The view's name in metrics."""
        return self.name if self.name in VIEWS or self.name in SHIPPED else TENANTS

    @property
    def known(self) -> Collection[str]:
        """The features that the view can give."""
        if self.pushed:
            return [name for name, _ in self.pushed.layout.features]
        if self.defined:
            return [item.name for item in self.defined.aggregates]
        return _STORED[self.name]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a set of features means under one state of the definitions.

    Attributes:
        parts: by the view's name as it was asked for.
        order: (view as asked, feature) of each result.
        names: of the results, without the join keys; `full_names` with their views.
        entities: every name that a request's entities may have.
        quick: how one row is rendered where all its views are pushed and without texts.
        heads: answers up to their results, as they were rendered.
    """

    catalog: Catalog
    parts: dict[str, Part]
    order: list[tuple[str, str]]
    names: list[str]
    full_names: list[str]
    entities: frozenset[str]
    quick: QuickPlan | None
    heads: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    def head(self, request: ReadRequest) -> bytes:
        """Give the answer up to its results.

        Raises:
            FeastRequestError: the request has an entity that nobody has, or results of one name.
        """
        asked = (request.full_feature_names, request.with_versions, *request.entities)
        head = self.heads.get(asked)
        if head is None:
            names = self.full_names if request.full_feature_names else self.names
            _check(request, names, self.entities)
            metadata: dict[str, Any] = {"feature_names": [*request.entities, *names]}
            if request.with_versions:
                metadata["feature_view_metadata"] = [
                    {"name": part.name, "version": part.version} for part in self.parts.values()
                ]
            head = b'{"metadata":%b,"results":[' % orjson.dumps(metadata)
            if len(self.heads) < _HEADS_MAX:
                self.heads[asked] = head
        return head


def _check(request: ReadRequest, names: Sequence[str], entities: Collection[str]) -> None:
    for name in request.entities:
        if name not in entities:
            raise refuse(f"/entities/{name[:64]}", "is no entity")
    if len(set(names)) < len(names):
        raise refuse("/features", "has two features of one name; set full_feature_names")


def plan_of(catalog: Catalog, request: ReadRequest) -> Plan:
    """Resolve what a request names.

    Raises:
        FeastRequestError, UnknownViewError, UnknownServiceError: it names what there is not.
        UnavailableError: a view is being filled from history.
    """
    references = request.features or _references(catalog, str(request.feature_service))
    parts, order = _parts(catalog, references)
    entities = {f"{name}_id" for name in VIEWS}
    entities |= {key for view in catalog.versions.values() for key in view.join_keys}
    entities |= {key for view in catalog.computed_versions.values() for key in view.join_keys}
    return Plan(
        catalog,
        parts,
        order,
        [feature for _, feature in order],
        [f"{named.removesuffix('@latest')}__{feature}" for named, feature in order],
        frozenset(entities),
        _quick_plan(parts, order),
    )


def _references(catalog: Catalog, name: str) -> list[str]:
    if name in catalog.services:
        return catalog.services[name]
    for service in FEATURE_SERVICES:
        if service.name == name:
            return [raw for raw in service.raw if raw in ring_columns.STORED]
    raise UnknownServiceError("There is no feature service of this name.")


def _parts(
    catalog: Catalog, references: Sequence[str]
) -> tuple[dict[str, Part], list[tuple[str, str]]]:
    """Group references by view (and version), keeping the order of the features."""
    parts: dict[str, Part] = {}
    order = []
    for index, reference in enumerate(references):
        if reference.count(":") != 1:
            raise refuse(f"/features/{index}", "must be view:feature")
    if len(set(references)) < len(references):
        raise refuse("/features", "must not repeat a feature")
    for index, reference in enumerate(references):
        named, _, feature = reference.partition(":")
        if named not in parts:
            parts[named] = _part(catalog, named)
        part = parts[named]
        if feature not in part.known:
            raise refuse(f"/features/{index}", "is no feature of its view that a read can give")
        part.features.append(feature)
        order.append((named, feature))
    return parts, order


def _part(catalog: Catalog, named: str) -> Part:
    name, _, version = named.partition("@")
    unknown = UnknownViewError("There is no feature view of this name and version.")
    number = int(version[1:]) if _VERSION.match(version) else None
    if version not in {"", "latest"} and number is None:
        raise unknown
    if name in VIEWS:
        if number not in {None, _RING_VERSION}:
            raise unknown
        return Part(name, None, [], (f"{name}_id",))
    view = catalog.views.get(name) if number is None else catalog.versions.get((name, number))
    if view is None:
        return _defined_part(catalog, name, number, unknown)
    return Part(name, view, [], view.join_keys)


def _defined_part(
    catalog: Catalog, name: str, number: int | None, unknown: UnknownViewError
) -> Part:
    versions = [number] if number else [v for n, v in catalog.computed_versions if n == name]
    if not versions or (name, versions[-1]) not in catalog.computed_versions:
        raise unknown
    newest = catalog.computed.get(name)
    view = newest if number is None else catalog.computed_versions[name, number]
    if view is None or view.key in catalog.building:
        raise UnavailableError("The view is being filled from history.", retry_after_s=2)
    return Part(name, None, [], view.join_keys, view)


def _quick_plan(parts: Mapping[str, Part], order: Sequence[tuple[str, str]]) -> QuickPlan | None:
    """Plan one row where all views are pushed."""
    views = [part.pushed for part in parts.values() if part.pushed is not None]
    if len(views) < len(parts):
        return None
    numbers = {named: number for number, named in enumerate(parts)}
    return QuickPlan.of(views, [(numbers[named], feature) for named, feature in order])
