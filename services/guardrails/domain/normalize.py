"""Readings of a text under which hidden words show, each with a map back to the original.

Every step takes a reading and gives a reading: zero-width and tag characters dropped; NFKC, case
and homoglyphs folded; leet digits undone; letter spacing closed; base64, hex and percent decoded to
depth two. Sources: Unicode UTS 39 (confusables, a subset), UTS 51 (tags), RFC 4648, RFC 3986.
"""

import base64
import binascii
import re
import unicodedata
from dataclasses import dataclass
from itertools import product
from urllib.parse import unquote_to_bytes

from services.guardrails.domain import rules

DEPTH_MAX = 2
# Encoded runs examined per text and depth: a bound on hostile input, far above honest use.
RUNS_MAX = 200

# Cf characters (zero-width, joiners, bidi controls, tags), soft hyphen, Hangul fillers, variation
# selectors, the combining grapheme joiner.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_TAGS = re.compile("[\U000e0020-\U000e007e]+")

_CONFUSABLES: dict[int, str] = {
    ord(source): target
    for target, sources in rules.load("confusables")["latin"].items()
    for source in sources
}
_LEET = str.maketrans("013457@$!|", "oieastasil")
# A bar stands for a letter only between letters or digits, an exclamation mark only before one.
_LEET_WORD = re.compile(r"(?:[a-z0-9@$]|!(?=[a-z0-9@$])|(?<=[a-z0-9])\|(?=[a-z0-9]))+")
# Such a sign beside a letter, or in a short run of digits.
_LEET_SEEN = re.compile(
    r"[a-z@$!|][013457@$!|]|[013457@$!|][a-z@$!|]|(?<![0-9])[0-9]{1,3}(?![0-9])"
)
# Longer runs of digits alone are numbers.
_LEET_DIGITS_MAX = 3
# A 1 is an i, or an l where that makes a common word; so many of them are tried in a word.
_ELL_WORDS = frozenset(rules.load("leet")["ell"].split())
_ELLS_MAX = 4
_SPACED = re.compile(r"(?<![^\W_])[a-z](?:[ ._*-]{1,2}[a-z](?![^\W_])){2,}")
_SEPARATORS = re.compile(r"[ ._*-]")

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{2}(?::?[0-9a-fA-F]{2}){5,}")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}[A-Za-z0-9._~+-]*){2,}")


@dataclass(frozen=True)
class Reading:
    """A text and, per character, the stretch [start, end) of the original that it stands for."""

    text: str
    starts: list[int]
    ends: list[int]


def identity(text: str) -> Reading:
    """The original, each character standing for itself."""
    size = len(text)
    return Reading(text, list(range(size)), list(range(1, size + 1)))


def count_ignorable(text: str) -> int:
    """Count the characters that no reading shows."""
    return 0 if text.isascii() else len(_IGNORABLE.findall(text))


def _select(reading: Reading, keep: list[int]) -> Reading:
    return Reading(
        "".join([reading.text[index] for index in keep]),
        [reading.starts[index] for index in keep],
        [reading.ends[index] for index in keep],
    )


def strip(reading: Reading) -> Reading:
    """Drop ignorable characters."""
    dropped = {match.start() for match in _IGNORABLE.finditer(reading.text)}
    if not dropped:
        return reading
    return _select(reading, [i for i in range(len(reading.text)) if i not in dropped])


def fold(reading: Reading) -> Reading:
    """NFKC, lower case, homoglyphs to Latin letters; a character may become several or none."""
    if reading.text.isascii():
        return Reading(reading.text.lower(), reading.starts, reading.ends)
    chars: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for index, char in enumerate(reading.text):
        folded = char.lower() if char < "\x80" else _fold_char(char)
        for part in folded:
            chars.append(part)
            starts.append(reading.starts[index])
            ends.append(reading.ends[index])
    return Reading("".join(chars), starts, ends)


def _fold_char(char: str) -> str:
    composed = unicodedata.normalize("NFKC", char).lower().translate(_CONFUSABLES)
    decomposed = unicodedata.normalize("NFD", composed)
    return "".join(part for part in decomposed if not unicodedata.combining(part))


def leet(reading: Reading) -> Reading:
    """Undo digits and signs that stand for letters, in words with a letter and in short ones."""
    if not _LEET_SEEN.search(reading.text):
        return reading
    text = _LEET_WORD.sub(lambda match: _unleet(match[0]), reading.text)
    return Reading(text, reading.starts, reading.ends)


def _unleet(word: str) -> str:
    has_letter = any("a" <= char <= "z" for char in word)
    if not has_letter and len(word) > _LEET_DIGITS_MAX:
        return word
    return _with_ells(word) or word.translate(_LEET)


def _with_ells(word: str) -> str:
    """Give the common word that a word spells when some of its 1s are an l; empty for none."""
    ones = [index for index, char in enumerate(word) if char == "1"]
    if not 0 < len(ones) <= _ELLS_MAX:
        return ""
    plain = list(word.translate(_LEET))
    for letters in product("li", repeat=len(ones)):
        for index, letter in zip(ones, letters, strict=True):
            plain[index] = letter
        if "".join(plain) in _ELL_WORDS:
            return "".join(plain)
    return ""


def join_spaced(reading: Reading) -> Reading:
    """Close runs of single letters set apart (`i g n o r e`); two spaces stay a word border."""
    dropped: set[int] = set()
    for match in _SPACED.finditer(reading.text):
        for separator in _SEPARATORS.finditer(reading.text, match.start(), match.end()):
            index = separator.start()
            if reading.text[index + 1] not in " ._*-":
                dropped.add(index)
    if not dropped:
        return reading
    return _select(reading, [i for i in range(len(reading.text)) if i not in dropped])


def tags(text: str) -> list[Reading]:
    """What runs of Unicode tag characters spell in ASCII."""
    return [
        Reading(
            "".join(chr(ord(char) - 0xE0000) for char in match[0]),
            list(range(match.start(), match.end())),
            list(range(match.start() + 1, match.end() + 1)),
        )
        for match in _TAGS.finditer(text)
    ]


def decoded(reading: Reading, depth: int = DEPTH_MAX) -> list[Reading]:
    """Readings of the encoded runs, each standing for its whole run, to the depth given."""
    found: list[Reading] = []
    for start, end, plain in _decode_runs(reading.text):
        first, last = reading.starts[start], max(reading.ends[start:end])
        inner = Reading(plain, [first] * len(plain), [last] * len(plain))
        found.append(inner)
        if depth > 1:
            found += decoded(inner, depth - 1)
    return found


def _decode_runs(text: str) -> list[tuple[int, int, str]]:
    runs: list[tuple[int, int, str]] = []
    for pattern, decode in ((_BASE64, _base64), (_HEX, _hex), (_PERCENT, unquote_to_bytes)):
        for count, match in enumerate(pattern.finditer(text)):
            if count >= RUNS_MAX:
                break
            plain = _printable(decode(match[0]))
            if plain:
                runs.append((match.start(), match.end(), plain))
    return runs


def _base64(run: str) -> bytes:
    body = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except binascii.Error:
        return b""


def _hex(run: str) -> bytes:
    bare = run.removeprefix("0x").replace(":", "")
    try:
        return bytes.fromhex(bare)
    except ValueError:
        return b""


def _printable(data: bytes) -> str:
    """Give the text behind bytes, or nothing when they are no text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    readable = sum(char.isprintable() or char in "\n\r\t" for char in text)
    return text if len(text) >= 4 and readable == len(text) else ""
