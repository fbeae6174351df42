"""Plug-ins as validators: from a folder, installed packages or uploads; swapped by reference.

A version serves only after its own examples passed in its own process. A swap replaces one entry
of the guard's table; calls that run finish on the old version, which then stops.
"""

import asyncio
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path, PurePath
from typing import Any, Protocol

import orjson
from pydantic import ValidationError

from libs.common.errors import ConflictError, InvalidInputError, NotFoundError
from libs.common.logging import get_logger
from services.guardrails.adapters.plugin_process import PluginFailedError, PluginProcess
from services.guardrails.adapters.rule_sets import RuleSetValidator, RuleSetVersion
from services.guardrails.domain.document import Document
from services.guardrails.domain.params import check_names
from services.guardrails.domain.plugins import PluginManifest, digest_of
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.ports import Validator
from services.guardrails.domain.trial import Trial
from services.guardrails.domain.verdict import Detection, Status

log = get_logger()
GROUP = "gatehouse.validators"
_EXAMPLES_WITHIN_S = 20.0


@dataclass(frozen=True)
class PluginVersion:
    """A version that could serve."""

    manifest: PluginManifest
    folder: str
    digest: str
    tenant: str | None = None  # installed by the operator: everybody's

    @property
    def name(self) -> str:
        """Of the validator."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Semantic version."""
        return self.manifest.version

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can report."""
        return self.manifest.labels


class Served(Validator, Protocol):
    """A version in service."""

    @property
    def is_disabled(self) -> bool:
        """Whether it crashed too often."""
        ...

    async def retire(self) -> None:
        """Let the calls that hold this version end, then stop it."""
        ...

    async def close(self) -> None:
        """Stop it."""
        ...


class PluginValidator:
    """One version behind its process."""

    kind = "plugin"
    lookahead = 0

    def __init__(
        self,
        version: PluginVersion,
        process: PluginProcess,
        observe: Callable[[str, str], None] = lambda name, reason: None,
    ) -> None:
        manifest = version.manifest
        self.name = manifest.name
        self.labels = manifest.labels
        self.max_span = manifest.max_span
        self.version = f"{manifest.version}+{version.digest[:8]}"
        self.process = process
        self._observe = observe

    @property
    def is_disabled(self) -> bool:
        """Whether its process crashed too often."""
        return self.process.is_disabled

    async def retire(self) -> None:
        """Let the calls that hold this version end, then stop its process."""
        await self.process.retire()

    async def close(self) -> None:
        """Stop its process."""
        await self.process.close()

    def parse(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Accept `options`, which the plug-in gets as its context."""
        check_names(params, {"options"})
        return params

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Ask the process; whatever fails there is ERROR here."""
        texts = [document.text for document in documents]
        try:
            return await self.process.check(texts, dict(rule.params), self.version)
        except PluginFailedError as error:
            self._observe(self.name, error.reason)
            return [Detection(status=Status.ERROR, version=self.version)] * len(documents)


class PluginRegistry:
    """Knows the versions on disk and which of them serves; swaps entries of the guard's table."""

    def __init__(
        self,
        table: MutableMapping[str, Validator],
        folder: Path | None,
        *,
        memory_bytes: int,
        pool: Executor,
        observe: Callable[[str, str], None] = lambda name, reason: None,
        on_disabled: Callable[[str, str], None] = lambda name, version: None,
    ) -> None:
        """Serve nothing yet.

        Args:
            table: validators by name, as the guard reads them.
            folder: holds `<name>/<version>/manifest.json`; None for installed packages only.
            memory_bytes: address space of each process.
            pool: matches the patterns of rule sets over long texts.
            observe: told of failed calls.
            on_disabled: told of versions that crashed too often.
        """
        self._table = table
        self._folder = folder
        self._memory = memory_bytes
        self._pool = pool
        self._rule_sets: dict[tuple[str, str], RuleSetVersion] = {}
        self._observe = observe
        self._on_disabled = on_disabled
        self._own: dict[str, Served] = {}
        self._trials: dict[str, Trial] = {}
        self._candidates: dict[str, Served] = {}
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    def rule_sets(self) -> list[RuleSetVersion]:
        """Give the rule sets that this process knows."""
        return list(self._rule_sets.values())

    def learn(self, version: RuleSetVersion) -> None:
        """Make a stored rule set available."""
        self._rule_sets[version.name, version.version] = version

    def compiled(self, version: RuleSetVersion) -> RuleSetValidator:
        """Compile a rule set.

        Raises:
            RuleSetError: a rule cannot run, or fails its own examples.
        """
        return RuleSetValidator(version, self._pool)

    def owner(self, name: str) -> str | None:
        """Give the tenant whose rule set has this name; None for everybody's validators."""
        return next(
            (item.tenant for (own, _), item in self._rule_sets.items() if own == name), None
        )

    def is_free(self, name: str) -> bool:
        """Say whether no validator or installed plug-in has this name."""
        if name in self._table and self.owner(name) is None:
            return False
        return all(item.name != name for item in self._installed())

    def available(self) -> list[PluginVersion | RuleSetVersion]:
        """Give every version that could serve."""
        return [*self._installed(), *self._rule_sets.values()]

    def _installed(self) -> list[PluginVersion]:
        """Read what is there; a folder that is no version is left out and logged."""
        found: list[PluginVersion] = []
        if self._folder is not None and self._folder.is_dir():
            for path in sorted(self._folder.glob("*/*/manifest.json")):
                version = _from_folder(path.parent)
                if version is not None:
                    found.append(version)
        for point in entry_points(group=GROUP):
            manifest = _from_package(point)
            if manifest is not None:
                found.append(manifest)
        return found

    def serving(self) -> dict[str, Served]:
        """Give the serving versions by name."""
        return dict(self._own)

    async def activate(self, name: str, version: str) -> Served:
        """Start a version, run its examples, and put it in place of the one that serves.

        Raises:
            NotFoundError: no such version.
            ConflictError: the name belongs to a validator of the service.
            InvalidInputError: it does not start or fails its own examples; nothing changed.
        """
        async with self._lock:
            if name in self._table and name not in self._own:
                raise ConflictError("A validator of the service has this name.")
            if name in self._trials:
                raise ConflictError("A version of this plug-in is on trial.", hint="End it first.")
            validator = await self._tested(self._find(name, version))
            self._adopt(validator)
        return validator

    async def try_out(
        self, name: str, version: str, make: Callable[[Validator, Validator], Trial]
    ) -> Trial:
        """Start a version beside the one that serves and route through a trial of both.

        Raises:
            NotFoundError: no such version, or nothing serves under this name.
            ConflictError: a trial of this plug-in runs.
            InvalidInputError: the version does not start or fails its own examples.
        """
        async with self._lock:
            stable = self._own.get(name)
            if stable is None:
                raise NotFoundError("No version of this plug-in serves.")
            if name in self._trials:
                raise ConflictError("A version of this plug-in is on trial.", hint="End it first.")
            candidate = await self._tested(self._find(name, version))
            trial = self._trials[name] = make(stable, candidate)
            self._candidates[name] = candidate
            self._table[name] = trial
        return trial

    def trials(self) -> dict[str, Trial]:
        """Give the trials that run, by validator."""
        return dict(self._trials)

    def finish(self, name: str, *, promote: bool) -> None:
        """End the trial of a validator: its candidate serves, or stops."""
        trial = self._trials.pop(name, None)
        if trial is None:
            return
        trial.end("promoted" if promote else "rolled_back")
        candidate = self._candidates.pop(name)
        if promote:
            self._adopt(candidate)
        else:
            self._table[name] = self._own[name]
            self._retire(candidate)

    def _find(self, name: str, version: str) -> PluginVersion | RuleSetVersion:
        for item in self.available():
            if (item.name, item.version) == (name, version):
                return item
        raise NotFoundError("No such plug-in version.")

    def _adopt(self, validator: Served) -> None:
        """Put a version into service; one assignment: a check sees the old or the new one."""
        before = self._own.get(validator.name)
        self._own[validator.name] = validator
        self._table[validator.name] = validator
        if before is not None:
            self._retire(before)

    async def _tested(self, chosen: PluginVersion | RuleSetVersion) -> Served:
        if isinstance(chosen, RuleSetVersion):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self.compiled, chosen)
        manifest = chosen.manifest
        process = PluginProcess(
            manifest,
            chosen.folder,
            memory_bytes=self._memory,
            on_disabled=lambda: self._on_disabled(manifest.name, manifest.version),
        )
        validator = PluginValidator(chosen, process, self._observe)
        examples = [*manifest.positives, *manifest.negatives]
        try:
            async with asyncio.timeout(_EXAMPLES_WITHIN_S):
                await process.start()
                found = await process.check(examples, {}, validator.version)
        except (PluginFailedError, TimeoutError):
            await process.close()
            raise InvalidInputError.field(
                "/version", "does not start or does not answer its own examples"
            ) from None
        is_found = [bool(item.spans or item.scores) for item in found]
        if is_found != [True] * len(manifest.positives) + [False] * len(manifest.negatives):
            await process.close()
            raise InvalidInputError.field("/version", "fails its own examples")
        return validator

    def _retire(self, validator: Served) -> None:
        task = asyncio.ensure_future(validator.retire())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Stop every process."""
        running = [*self._own.values(), *self._candidates.values()]
        await asyncio.gather(*self._closing, *(item.close() for item in running))


def _from_folder(folder: Path) -> PluginVersion | None:
    files: dict[PurePath, bytes] = {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    try:
        manifest = PluginManifest.model_validate(orjson.loads(files[PurePath("manifest.json")]))
    except (KeyError, orjson.JSONDecodeError, ValidationError):
        log.warning("not a plug-in version", path=f"{folder.parent.name}/{folder.name}")
        return None
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        log.warning("not a plug-in version", path=f"{folder.parent.name}/{folder.name}")
        return None
    return PluginVersion(manifest, str(folder), digest_of(files))


def _from_package(point: Any) -> PluginVersion | None:
    """Read the manifest that an installed package ships beside its module, without importing it."""
    files = [file for file in point.dist.files or () if file.name == "manifest.json"]
    for file in files:
        raw = file.read_binary()
        try:
            manifest = PluginManifest.model_validate(orjson.loads(raw))
        except (orjson.JSONDecodeError, ValidationError):
            continue
        if manifest.name == point.name:
            digest = digest_of({PurePath(item): item.read_binary() for item in point.dist.files})
            return PluginVersion(manifest, "", digest)
    log.warning("not a plug-in version", name=point.name)
    return None
