"""Settings of inference; the shared ones are in `libs.common.settings`."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import SecretStr

from libs.common.settings import CommaList, ServiceSettings, env


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
    feature_cache_ttl_s: float = env(
        "FEATURE_CACHE_TTL",
        default=300.0,
        gt=0,
        le=86_400,
        description="Seconds a client-side copy of a feature may live; writes drop it at once.",
    )
    feature_cache_views: CommaList = env(
        "FEATURE_CACHE_VIEWS",
        default=("item", "merchant_risk"),
        description="Feature views kept client-side, comma separated; empty switches it off.",
    )
    degraded_review_amount: float = env(
        "DEGRADED_REVIEW_AMOUNT",
        default=200.0,
        ge=0,
        description="While features cannot be read, payments from this amount on are at least "
        "reviewed, whatever their score.",
    )
    currency_rates_path: Path | None = env(
        "CURRENCY_RATES_PATH",
        default=None,
        description='JSON table of rates: {"base": "USD", "as_of": "2025-06-30", "rates": {"EUR": '
        "1.17}}, base units for one unit; empty takes the rounded built-in table of that day.",
    )
    batch_chunk_rows: int = env(
        "SCORE_BATCH_CHUNK_ROWS",
        default=250,
        ge=1,
        le=1_000,
        description="Rows of /score/batch that share one feature read and one model call.",
    )
    max_batch_size: int = env(
        "MAX_BATCH_SIZE",
        default=32,
        ge=1,
        le=1_024,
        description="Texts (windows of long ones) per batch of a text model at most.",
    )
    text_batch_tokens: int = env(
        "TEXT_BATCH_TOKENS",
        default=4_096,
        ge=8,
        description="Padded tokens per batch of a text model at most.",
    )
    text_fill_delay_us: int = env(
        "TEXT_FILL_DELAY_US",
        default=0,
        ge=0,
        le=1_000_000,
        description="Microseconds that a free executor waits for a fuller batch while there is a "
        "backlog; 0 dispatches at once.",
    )
    text_queue_items: int = env(
        "TEXT_QUEUE_ITEMS",
        default=2_048,
        ge=1,
        description="Windows that may wait per text model; more are refused with 503.",
    )
    text_queue_tokens: int = env(
        "TEXT_QUEUE_TOKENS",
        default=262_144,
        ge=512,
        description="Tokens that may wait per text model; more are refused with 503.",
    )
    text_executors: int = env(
        "TEXT_EXECUTORS",
        default=0,
        ge=0,
        le=256,
        description="Concurrent forwards of a text model on the CPU; 0 takes the cgroup's CPUs.",
    )
    text_loading: Literal["background", "eager"] = env(
        "TEXT_LOADING",
        default="background",
        description="background becomes ready with the tabular models and loads text models after "
        "that; eager becomes ready with all models.",
    )
    v2_server_name: str = env(
        "V2_SERVER_NAME",
        default="gatehouse",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name in GET /v2; some clients want to read triton.",
    )
    tokenizer_threads: int = env(
        "TOKENIZER_THREADS", default=2, ge=1, le=64, description="Threads that tokenize."
    )
    cache_ttl_s: int = env(
        "CACHE_TTL",
        default=3_600,
        ge=0,
        description="Seconds that a prediction is kept in Redis; 0 switches the cache off.",
    )
    cache_value_bytes_max: int = env(
        "CACHE_VALUE_BYTES_MAX",
        default=16_384,
        ge=256,
        description="Predictions with larger values are not cached.",
    )
    models_served: CommaList = env(
        "MODELS_SERVED",
        default=(),
        description="Names of the models that this replica serves, separated by commas; empty "
        "serves all.",
    )
    models_pinned: CommaList = env(
        "MODELS_PINNED",
        default=("fraud",),
        description="Models that are never evicted to make room, separated by commas.",
    )
    model_memory_mib: int = env(
        "MODEL_MEMORY_MIB",
        default=4_096,
        ge=1,
        description="Memory of all loaded models together; beyond it the least recently used one "
        "leaves and is loaded again when it is asked for.",
    )
    model_signatures: Literal["optional", "required"] = env(
        "MODEL_SIGNATURES",
        default="optional",
        description="required refuses model versions whose manifest is not signed.",
    )
    model_public_key_path: Path | None = env(
        "MODEL_PUBLIC_KEY_PATH",
        default=None,
        description="Ed25519 public key of who releases models; signatures are checked with it.",
    )
    models_reconcile_s: float = env(
        "MODELS_RECONCILE_S",
        default=2.0,
        gt=0,
        le=60,
        description="Seconds after which a replica reads the wanted versions and rollouts at the "
        "latest, should a notice be lost.",
    )
    golden_interval_s: float = env(
        "GOLDEN_INTERVAL_S",
        default=300.0,
        gt=0,
        description="Seconds between two runs of a loaded version's golden cases.",
    )
    drift_event_s: float = env(
        "DRIFT_EVENT_S",
        default=300.0,
        gt=0,
        description="Seconds between two model.drift events of a version that answers.",
    )
    mlflow_tracking_uri: str | None = env(
        "MLFLOW_TRACKING_URI",
        default=None,
        description="MLflow tracking server whose registry is followed (http or https); the "
        "training pipelines log to it, into an embedded SQLite file when it is empty.",
    )
    mlflow_models: CommaList = env(
        "MLFLOW_MODELS",
        default=("fraud",),
        description="Registered models to follow, separated by commas.",
    )
    mlflow_alias: str = env(
        "MLFLOW_ALIAS",
        default="champion",
        pattern=r"^((version|stage):)?[A-Za-z0-9._-]{1,64}$",
        description="Alias whose version is fetched, proven and promoted when it moves; version:5 "
        "names one version, stage:Production the newest of a stage.",
    )
    mlflow_poll_s: float = env(
        "MLFLOW_POLL_S",
        default=30.0,
        gt=0,
        le=3_600,
        description="Seconds between two looks at the alias, give or take a fifth.",
    )

    checkpoints: CommaList = env(
        "CHECKPOINTS",
        default=(),
        description="Hugging Face classifiers to take in as versions, separated by commas: "
        "name/version=hf:owner/repository@revision, or name/version=/folder.",
    )
    hf_endpoint: str = env(
        "HF_ENDPOINT",
        default="https://huggingface.co",
        pattern=r"^https?://\S+$",
        description="Hub that checkpoints are fetched from.",
    )
    hf_token: SecretStr | None = env(
        "HF_TOKEN", default=None, description="Token for private repositories of the hub."
    )

    @property
    def checkpoints_path(self) -> Path:
        """Where versions made of checkpoints are put after they were verified."""
        return self.state_dir / "inference" / "checkpoints"

    @property
    def staged_models_path(self) -> Path:
        """Where versions from a registry are put after they were verified."""
        return self.state_dir / "inference" / "models"
