"""`python -m deploy.helm.schema`: write values.schema.json, draft-07, closed at every level.

The blocks of `defaults` and of one service are the same properties; here they stand once.
"""

import json
import sys
from typing import Any

from deploy.helm.render import CHART
from libs.common.catalog import SERVICES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "minLength": 1}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT: Schema = {"type": "integer", "minimum": 0}
SOME: Schema = {"type": "integer", "minimum": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
NAMES: Schema = {"type": "array", "items": NAME}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|Mi|Gi|Ti)?$"}
DIGEST: Schema = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
URL: Schema = {"type": "string", "pattern": "^(https?://.+)?$"}
# Tags that point somewhere else tomorrow.
MOVING_TAGS = ["latest", "main", "master", "edge", "stable", "dev", "nightly", "head"]


def closed(**properties: Schema) -> Schema:
    """Give an object that takes these properties and no other."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def required(schema: Schema, *names: str) -> Schema:
    """Give the object with these properties required."""
    return {**schema, "required": list(names)}


def one_source(scheme: str) -> Schema:
    """Give a store that comes by URL or by Secret, not by both; by neither only in the demo."""
    store = closed(
        url={"type": "string", "pattern": f"^({scheme}://.+)?$"},
        existingSecret=TEXT,
        key=NAME,
        port=PORT,
    )
    empty, given = {"const": ""}, {"minLength": 1}
    return {
        **required(store, "url", "existingSecret", "key", "port"),
        "oneOf": [
            {"properties": {"url": given, "existingSecret": empty}},
            {"properties": {"url": empty, "existingSecret": given}},
            {"properties": {"url": empty, "existingSecret": empty}},
        ],
    }


def probe() -> Schema:
    """Give the timing of one probe."""
    return closed(
        initialDelaySeconds=COUNT, periodSeconds=SOME, timeoutSeconds=SOME, failureThreshold=SOME
    )


AMOUNTS: Schema = {"type": "object", "additionalProperties": QUANTITY}
COMPONENT: dict[str, Schema] = {
    "replicas": COUNT,
    "resources": closed(requests=AMOUNTS, limits=AMOUNTS),
    "digest": DIGEST,
    "env": {
        "type": "object",
        "propertyNames": {"pattern": "^[A-Z][A-Z0-9_]*$"},
        "additionalProperties": TEXT,
    },
    "podAnnotations": TEXTS,
    "serviceAccountAnnotations": TEXTS,
    "priorityClassName": TEXT,
    "nodeSelector": TEXTS,
    "tolerations": OBJECTS,
    "probes": closed(startup=probe(), readiness=probe(), liveness=probe()),
    "preStopSeconds": COUNT,
    "shutdownSeconds": SOME,
    "terminationGracePeriodSeconds": SOME,
    "wal": closed(size=QUANTITY, persistence=FLAG, storageClassName=TEXT),
    "maxUnavailable": SOME,
    "hpa": closed(
        enabled=FLAG,
        minReplicas=SOME,
        maxReplicas=SOME,
        cpuPercent={"type": "integer", "minimum": 1, "maximum": 100},
        latencyMetric=TEXT,
        latencyTarget=QUANTITY,
    ),
    "keda": closed(
        enabled=FLAG,
        minReplicas=COUNT,
        maxReplicas=SOME,
        serverAddress=URL,
        query=TEXT,
        threshold=NAME,
        cooldownSeconds=COUNT,
    ),
}
# At most one autoscaler; validations.yaml sees also what `defaults` and a service say together.
_HPA: Schema = {
    "required": ["hpa"],
    "properties": {"hpa": {"required": ["enabled"], "properties": {"enabled": {"const": True}}}},
}
_KEDA: Schema = {
    "required": ["keda"],
    "properties": {"keda": {"required": ["enabled"], "properties": {"enabled": {"const": True}}}},
}
ONE_SCALER: Schema = {"oneOf": [{"not": {"anyOf": [_HPA, _KEDA]}}, _HPA, _KEDA]}


def service() -> Schema:
    """Give one entry of `services`."""
    properties = {
        **COMPONENT,
        "port": PORT,
        "calls": {"type": "array", "uniqueItems": True, "items": {"enum": list(SERVICES)}},
        "redis": FLAG,
    }
    return {**required(closed(**properties), "port", "calls", "redis"), **ONE_SCALER}


def schema() -> Schema:
    """Give the whole schema."""
    properties: dict[str, Schema] = {
        "image": closed(
            registry=TEXT,
            tag={"type": "string", "not": {"enum": MOVING_TAGS}},
            pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
            requireDigests=FLAG,
        ),
        "imagePullSecrets": {"type": "array", "items": required(closed(name=NAME), "name")},
        "environment": NAME,
        "logLevel": {"enum": ["debug", "info", "warning", "error"]},
        "traces": closed(
            endpoint=URL, ratio={"type": "string", "pattern": r"^(0(\.[0-9]+)?|1(\.0+)?)$"}
        ),
        "postgres": one_source("postgres(ql)?"),
        "redis": one_source("rediss?"),
        "caCertificates": closed(existingSecret=TEXT, key=NAME),
        "keys": required(
            closed(existingSecret=NAME, publicConfigMap=NAME), "existingSecret", "publicConfigMap"
        ),
        "pepper": required(
            closed(existingSecret=NAME, key=NAME, guardrailsKey=NAME), "existingSecret", "key"
        ),
        "gatewayTls": closed(existingSecret=TEXT),
        "gemini": closed(existingSecret=TEXT, key=NAME),
        "auditKeys": closed(
            existingClaim=TEXT,
            size=QUANTITY,
            storageClassName=TEXT,
            accessModes={
                "type": "array",
                "minItems": 1,
                "items": {"enum": ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]},
            },
        ),
        "witness": closed(
            url=URL,
            verifierKey=TEXT,
            enabled=FLAG,
            logKeys={
                "type": "array",
                "items": {"type": "string", "pattern": r"^[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+$"},
            },
            storageClassName=TEXT,
        ),
        "externalSecrets": closed(
            enabled=FLAG,
            storeRef=closed(name=TEXT, kind={"enum": ["SecretStore", "ClusterSecretStore"]}),
            refreshInterval=NAME,
            remoteKeys=TEXTS,
        ),
        "networkPolicy": closed(
            enabled=FLAG, gatewayFrom=OBJECTS, storeCidrs=NAMES, monitoringFrom=OBJECTS
        ),
        "migrations": closed(enabled=FLAG, useHelmHooks=FLAG),
        "ingress": closed(
            enabled=FLAG, className=TEXT, annotations=TEXTS, hosts=NAMES, tls=OBJECTS
        ),
        "httpRoute": closed(enabled=FLAG, annotations=TEXTS, parentRefs=OBJECTS, hostnames=NAMES),
        "serviceMonitor": closed(
            enabled=FLAG, interval={"type": "string", "pattern": "^[0-9]+(ms|s|m)$"}, labels=TEXTS
        ),
        "prometheusRule": closed(enabled=FLAG, labels=TEXTS, runbookBaseUrl=URL),
        "dashboards": closed(enabled=FLAG, label=NAME, labelValue=TEXT),
        "models": closed(
            existingClaim=TEXT, mountPath={"type": "string", "pattern": "^/"}, served=NAMES
        ),
        "inferencePools": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-z][a-z0-9-]{0,20}$"},
            "additionalProperties": required(
                closed(**COMPONENT, served={**NAMES, "minItems": 1}), "served"
            ),
        },
        "gpu": closed(
            enabled=FLAG,
            resourceName=NAME,
            count=SOME,
            nodeSelector=TEXTS,
            tolerations=OBJECTS,
            runtimeClassName=TEXT,
            timeSlicing=closed(enabled=FLAG, replicas={"type": "integer", "minimum": 2}),
        ),
        "helmTest": closed(enabled=FLAG, apiKeySecret=TEXT, apiKeyKey=NAME),
        "demo": closed(
            enabled=FLAG, postgresImage=NAME, redisImage=NAME, password=NAME, size=QUANTITY
        ),
        "extraObjects": OBJECTS,
        "defaults": {**required(closed(**COMPONENT), *COMPONENT), **ONE_SCALER},
        "services": required(
            closed(**{name: {"$ref": "#/definitions/service"} for name in SERVICES}), *SERVICES
        ),
        # Helm itself passes these two when the chart is a dependency.
        "global": {"type": "object"},
        "enabled": FLAG,
    }
    body = required(
        closed(**properties), *(n for n in properties if n not in {"global", "enabled"})
    )
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the gatehouse chart",
        **body,
        "definitions": {"service": service()},
    }


def text() -> str:
    """Give the file as it is committed."""
    return json.dumps(schema(), indent=2) + "\n"


def main() -> int:
    """Write the file."""
    (CHART / "values.schema.json").write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
