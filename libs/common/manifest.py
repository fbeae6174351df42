"""The model manifest: everything that changes an answer, pinned by hash.

`models/<name>/<version>/manifest.json`; `version` is an integer, `release` is X.Y.Z and is what
answers show. Formats are ONNX, safetensors and JSON (XGBoost JSON and LightGBM text included);
a pickle is refused by name.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_CHUNK = 1 << 20
# Suffixes that Python's pickle hides behind; the message names the way out.
PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"})
ALLOWED_SUFFIXES = frozenset({".onnx", ".safetensors", ".json", ".txt", ".md"})


class ManifestError(Exception):
    """The manifest or a file it names is not acceptable; the text says which and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the version; path relative to the manifest."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]

    @field_validator("path")
    @classmethod
    def _safe(cls, value: str) -> str:
        if ".." in value.split("/"):
            raise ValueError("must not leave the folder of the version")
        suffix = Path(value).suffix.lower()
        if suffix in PICKLE_SUFFIXES:
            raise ValueError(
                f"{suffix} may hold a pickle, which is never loaded; convert it to ONNX "
                "(training.export) or safetensors"
            )
        if suffix not in ALLOWED_SUFFIXES:
            raise ValueError(f"{suffix or 'no suffix'} is not an allowed format")
        return value


class TensorSpec(_Strict):
    """One input or output tensor; -1 is a variable dimension."""

    name: str
    datatype: Literal[
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BYTES",
    ]
    shape: list[int]


class GoldenCase(_Strict):
    """Inputs and the answer that this version must give, within the tolerance."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    tolerance: float = 1e-5


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
_Version = Annotated[int, Field(ge=1)]
_Milliseconds = Annotated[int, Field(ge=1, le=600_000)]


class VersionReference(_Strict):
    """An exact version of a model in the same repository."""

    model: _Name
    version: _Version


class EnsembleMember(VersionReference):
    """One voter.

    Attributes:
        weight: of its vote; weights are normalised over the members that answered.
        required: without its answer the ensemble falls back.
        timeout_ms: its own deadline; None takes the ensemble's.
    """

    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    required: bool = False
    timeout_ms: _Milliseconds | None = None


class EnsembleSpec(_Strict):
    """How versions of other models answer together.

    Attributes:
        method: soft takes the weighted mean of probabilities, hard the weighted vote.
        min_members: fewer answers than this are none, and the fallback answers.
        member_timeout_ms: deadline of each member's answer.
        vote_threshold: from this score on a tabular member votes for the positive class.
        fallback: who answers when the members do not; None lets the call fail.
    """

    method: Literal["soft", "hard"] = "soft"
    members: Annotated[list[EnsembleMember], Field(min_length=2, max_length=16)]
    min_members: Annotated[int, Field(ge=1)] = 1
    member_timeout_ms: _Milliseconds = 1_000
    vote_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    fallback: VersionReference | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "EnsembleSpec":
        if len({(item.model, item.version) for item in self.members}) < len(self.members):
            raise ValueError("a member is named twice")
        if self.min_members > len(self.members):
            raise ValueError("min_members is larger than the number of members")
        return self

    @property
    def needed(self) -> frozenset[tuple[str, int]]:
        """Versions that must be loaded for it."""
        voters = {(item.model, item.version) for item in self.members}
        if self.fallback is not None:
            voters.add((self.fallback.model, self.fallback.version))
        return frozenset(voters)


class Manifest(_Strict):
    """One version of one model."""

    name: _Name
    version: _Version
    release: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    task: Literal[
        "fraud",
        "relevance",
        "conversion",
        "sentiment",
        "guard",
        "entities",
        "tabular",
        "text-classification",
        "ensemble",
        "generic",
    ]
    engine: Literal["onnx", "torch", "xgboost", "lightgbm", "remote", "reference", "ensemble"]
    files: list[FileEntry] = []
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    labels: list[str] = []
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    calibration: dict[str, Any] = {}
    thresholds: dict[str, float] = {}
    truncation: dict[str, Any] = {}
    feature_service: str | None = None
    feature_fingerprint: str | None = None
    feature_names: list[str] = []
    feature_groups: dict[str, list[str]] = {}
    reference_statistics: dict[str, Any] = {}
    memory_limit_mib: Annotated[int, Field(ge=1)] = 512
    golden_cases: list[GoldenCase] = []
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    ensemble: EnsembleSpec | None = None
    card: str | None = None
    signature: str | None = None

    @model_validator(mode="after")
    def _ensemble_where_it_belongs(self) -> "Manifest":
        if (self.engine == "ensemble") != (self.ensemble is not None):
            raise ValueError("engine ensemble and the member `ensemble` belong together")
        return self


def file_sha256(path: Path) -> str:
    """Hash a file in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def load_manifest(directory: Path, *, verify: bool = True) -> Manifest:
    """Read and check `manifest.json` of one version, and the hash of each file it names.

    Raises:
        ManifestError: missing, malformed, a file absent, truncated or with another hash.
    """
    path = directory / "manifest.json"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"{directory.name}: manifest.json is missing") from None
    except ValueError as error:
        raise ManifestError(f"{path.parent.name}/manifest.json: {error}") from None
    if verify:
        for entry in manifest.files:
            verify_file(directory, entry)
    return manifest


def verify_file(directory: Path, entry: FileEntry) -> None:
    """Compare one file with its entry.

    Raises:
        ManifestError: the file is absent or differs.
    """
    path = directory / entry.path
    if not path.is_file():
        raise ManifestError(f"{entry.path}: the file is missing")
    size = path.stat().st_size
    if size != entry.bytes:
        raise ManifestError(f"{entry.path}: {size} bytes, the manifest says {entry.bytes}")
    found = file_sha256(path)
    if found != entry.sha256:
        raise ManifestError(
            f"{entry.path}: sha256 {found[:12]}…, the manifest says {entry.sha256[:12]}…"
        )


def describe_file(directory: Path, relative: str) -> FileEntry:
    """Make the manifest entry of a file."""
    path = directory / relative
    return FileEntry(path=relative, sha256=file_sha256(path), bytes=path.stat().st_size)
