"""A real boto3 against our service: `BOTO3_PYTHON bedrock_client.py URL`; prints JSON.

Runs in the peer's environment (benchmarks/peers/make.sh) and imports nothing of ours. botocore
sends `AWS_BEARER_TOKEN_BEDROCK` over HTTPS only; on loopback a hook adds the same header itself.
"""

import json
import os
import sys
from typing import Any


def main(url: str) -> dict[str, Any]:
    """Apply the built-in policy, read the full scope, and meet two errors."""
    import boto3  # type: ignore[import-not-found] # lives in the peer's environment
    from botocore import UNSIGNED  # type: ignore[import-not-found]
    from botocore.config import Config  # type: ignore[import-not-found]
    from botocore.exceptions import ClientError  # type: ignore[import-not-found]

    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=url,
        region_name="eu-west-1",
        config=Config(retries={"total_max_attempts": 1}, signature_version=UNSIGNED),
    )

    def authorize(request: Any, **_: Any) -> None:
        request.headers["Authorization"] = f"Bearer {os.environ['GATEHOUSE_API_KEY']}"

    client.meta.events.register("before-send.bedrock-runtime", authorize)

    def apply(text: str, identifier: str = "default", **more: Any) -> Any:
        return client.apply_guardrail(
            guardrailIdentifier=identifier,
            guardrailVersion="1",
            source="INPUT",
            content=[{"text": {"text": text}}],
            **more,
        )

    def error(text: str, identifier: str) -> str:
        try:
            apply(text, identifier)
        except ClientError as refused:
            return str(refused.response["Error"]["Code"])
        return ""

    masked = apply("mail jane@example.com")
    full = apply("a calm text", outputScope="FULL")
    entities = full["assessments"][0]["sensitiveInformationPolicy"]["piiEntities"]
    return {
        "action": masked["action"],
        "outputs": [item["text"] for item in masked["outputs"]],
        "types": [
            item["type"]
            for item in masked["assessments"][0]["sensitiveInformationPolicy"]["piiEntities"]
        ],
        "calm": [full["action"], full["outputs"]],
        "full_detected": sorted({item["detected"] for item in entities}),
        "filters": [item["type"] for item in full["assessments"][0]["contentPolicy"]["filters"]],
        "units": masked["usage"]["sensitiveInformationPolicyUnits"],
        "errors": {"unknown": error("a", "nope"), "too_long": error("a" * 300_000, "default")},
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
