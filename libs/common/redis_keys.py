"""Names of Redis keys; pure, so that layouts can be known without the driver."""

# What a part of a key must not contain as it is.
ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D", ":": "%3A"})


def tag(tenant: str, *parts: str) -> str:
    """Build the hash-tagged middle of a key, `{tenant:a:b}`, with separators escaped."""
    return "{" + ":".join([part.translate(ESCAPES) for part in (tenant, *parts)]) + "}"
