"""What a model is shown of a text beside the text itself: undone disguises, and sentences."""

import unicodedata

from services.guardrails.domain.document import Document, View
from services.guardrails.domain.sentences import sentences

# Readings of a text that a model is shown beside the original, and their length.
_READINGS_MAX = 4
_READING_CHARS_MAX = 4_000
# A reading of the whole text has so many of its characters.
_WHOLE_SHARE = 0.3
# A leet reading differs in every text with a digit; it is worth a look from so many changed words
# on. Words of digits only, such as numbers, are no leet. Foreign letters count one by one.
_LEET_WORDS_MIN = 3
_LETTER_CHANGES_MIN = 4
# With fewer Latin letters among its letters a text is of another alphabet.
_LATIN_SHARE = 0.3


def wholes(document: Document) -> list[str]:
    """Give the text as a whole: as it is, or as it reads where a disguise was undone.

    What is encoded in it stands for itself, so the letters of the code are left out of the text.
    """
    return _wholes(document, _telling(document)) or [document.text]


def readings(document: Document) -> list[str]:
    """Give what a model is shown of a text: the wholes, and the sentences of each."""
    shown = _wholes(document, _telling(document))
    found = dict.fromkeys([*shown, *(part for text in shown for part in _parts(text))])
    return list(found) or [document.text]


def _wholes(document: Document, views: list[View]) -> list[str]:
    undone = [view.utf8.text[:_READING_CHARS_MAX] for view in views]
    is_disguised = any(_is_whole(view, document.text) for view in views)
    if is_disguised and not _is_foreign(document.text):
        # Disguised words fall into many pieces, and what they say stands in the reading.
        shown = undone
    else:
        shown = [_without_codes(document), *undone]
    return [text for text in shown if text.strip()]


def _without_codes(document: Document) -> str:
    """Leave out the runs that were decoded."""
    runs = {
        (view.starts[0], max(view.ends))
        for view in document.decoded_views
        if view.starts and view.ends
    }
    text, end = "", 0
    for start, stop in sorted(runs):
        if start >= end:
            text += document.text[end:start]
            end = stop
    return text + document.text[end:]


def _is_foreign(text: str) -> bool:
    """Say whether most letters are of another alphabet, which is no disguise of this one."""
    letters = sum(map(str.isalpha, text))
    latin = sum(char.isascii() and char.isalpha() for char in text)
    return latin < _LATIN_SHARE * letters


def _telling(document: Document) -> list[View]:
    plain = document.text.lower()
    if not plain.isascii():
        # The models do not know accents; a reading without them is no other text.
        plain = "".join(
            char for char in unicodedata.normalize("NFD", plain) if not unicodedata.combining(char)
        )
    found = [view for view in document.evasion_views if _is_telling(view, plain)]
    return found[:_READINGS_MAX]


def _is_whole(view: View, text: str) -> bool:
    """Say whether a reading is of the whole text; one of an encoded run stands in one place."""
    starts = view.starts or [0]
    return len(view.utf8.text) >= _WHOLE_SHARE * len(text) and starts[0] < starts[-1]


def _parts(text: str) -> list[str]:
    found = sentences(text)
    return found if len(found) > 1 else []


def _is_telling(view: View, plain: str) -> bool:
    text = view.utf8.text
    if len(text) != len(plain):
        return True
    if not plain.isascii():
        changes = sum(one != other for one, other in zip(text, plain, strict=True))
        return changes >= _LETTER_CHANGES_MIN
    changed = sum(
        one != other and any(map(str.isalpha, other))
        for one, other in zip(text.split(), plain.split(), strict=False)
    )
    return changed >= _LEET_WORDS_MIN
