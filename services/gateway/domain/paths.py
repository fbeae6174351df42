"""The check of a raw request path: refuse, never rewrite.

The same bytes feed routing, authorization and the upstream URL, so every form that two parsers
could read differently is refused: dot segments, empty segments, backslash, `;`, `#`, control and
non-ASCII bytes, and the encoded forms of NUL, dot, slash and backslash, also doubly encoded.
"""

import re

PATH_BYTES_MAX = 2_048

_FORBIDDEN = re.compile(
    rb"//|[\x00-\x20\x7f-\xff\\;#]|%(?:25)*(?:00|2e|2f|5c)|%(?![0-9a-f]{2})", re.IGNORECASE
)
_DOT_SEGMENT = re.compile(rb"(?:^|/)\.{1,2}(?:/|$)")


def path_problem(raw_path: bytes) -> str | None:
    """Say what is wrong with a raw path (without query), or None when it is fine."""
    if len(raw_path) > PATH_BYTES_MAX:
        return f"longer than {PATH_BYTES_MAX} bytes"
    if not raw_path.startswith(b"/"):
        return "not an absolute path"
    if _FORBIDDEN.search(raw_path):
        return "a forbidden character or encoding"
    if _DOT_SEGMENT.search(raw_path):
        return "a dot segment"
    return None
