"""Names of Redis keys; pure, so that layouts can be known without the driver."""


def tag(tenant: str, *parts: str) -> str:
    """Build the hash-tagged middle of a key, `{tenant:a:b}`, with separators escaped."""
    escaped = (
        part.replace("%", "%25").replace("{", "%7B").replace("}", "%7D").replace(":", "%3A")
        for part in (tenant, *parts)
    )
    return "{" + ":".join(escaped) + "}"
