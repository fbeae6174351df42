"""Comparison of `If-None-Match` with an entity tag (RFC 9110, section 13.1.2)."""


def is_match(asked: bytes, tag: bytes) -> bool:
    """Say whether the field lists the tag; the comparison is the weak one, as the RFC has it.

    Args:
        asked: value of If-None-Match: `*`, or tags with commas between them.
        tag: a strong tag, with its quotes.
    """
    if asked.strip() == b"*":
        return True
    listed = (part.strip().removeprefix(b"W/") for part in asked.split(b","))
    return tag in listed
