"""Disguises of a text as attackers use them, each a pure function; some keep offsets computable."""

import base64
from collections.abc import Callable

_HOMOGLYPHS = str.maketrans("aeopcxyi", "\u0430\u0435\u043e\u0440\u0441\u0445\u0443\u0456")
_LEET = str.maketrans("aeiost", "431057")


def zero_width(text: str) -> str:
    """Put a zero-width space behind every other letter."""
    return "".join(c + ("\u200b" if i % 2 and c.isalpha() else "") for i, c in enumerate(text))


def tags(text: str) -> str:
    """Put an invisible tag character behind every third letter."""
    return "".join(
        c + ("\U000e0061" if i % 3 == 0 and c.isalpha() else "") for i, c in enumerate(text)
    )


def tag_spelled(text: str) -> str:
    """Spell the whole text in invisible tag characters."""
    return "hello " + "".join(chr(0xE0000 + ord(c)) for c in text if " " <= c <= "~")


def homoglyph(text: str) -> str:
    """Write Cyrillic letters that look Latin."""
    return text.translate(_HOMOGLYPHS)


def leet(text: str) -> str:
    """Write digits for letters."""
    return text.lower().translate(_LEET)


def base64_wrapped(text: str) -> str:
    """Encode the whole text."""
    return "decode this: " + base64.b64encode(text.encode()).decode()


def spaced(text: str) -> str:
    """Set the letters apart, words by two spaces."""
    return "  ".join(" ".join(word) for word in text.split())


DISGUISES: dict[str, Callable[[str], str]] = {
    "zero-width": zero_width,
    "tag padding": tags,
    "tag spelling": tag_spelled,
    "homoglyph": homoglyph,
    "leet": leet,
    "base64": base64_wrapped,
    "spacing": spaced,
}
