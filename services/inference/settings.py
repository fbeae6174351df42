"""Settings of inference; the shared ones are in `libs.common.settings`."""

from pathlib import Path
from typing import ClassVar

from libs.common.settings import ServiceSettings, env


class InferenceSettings(ServiceSettings):
    """What inference reads from the environment."""

    service: ClassVar[str] = "inference"

    model_path: Path = env(
        "MODEL_PATH",
        default=Path("models"),
        description="Model repository: MODEL_PATH/<name>/<version>/manifest.json.",
    )
    onnx_model_path: Path | None = env(
        "ONNX_MODEL_PATH",
        default=None,
        description="Where the fraud model's ONNX file lies when not beside its manifest; its hash "
        "must still be the manifest's.",
    )
    feature_names_path: Path | None = env(
        "FEATURE_NAMES_PATH",
        default=None,
        description="JSON list of feature names; the fraud model refuses to load unless it reads "
        "exactly these, in this order.",
    )
    use_onnx: bool = env(
        "USE_ONNX",
        default=True,
        description="false evaluates the native XGBoost JSON file instead of ONNX Runtime.",
    )
    degraded_review_amount: float = env(
        "DEGRADED_REVIEW_AMOUNT",
        default=200.0,
        ge=0,
        description="While features cannot be read, payments from this amount on are at least "
        "reviewed, whatever their score.",
    )
    batch_chunk_rows: int = env(
        "SCORE_BATCH_CHUNK_ROWS",
        default=250,
        ge=1,
        le=1_000,
        description="Rows of /score/batch that share one feature read and one model call.",
    )
