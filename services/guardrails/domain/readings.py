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


def disguises(document: Document) -> list[str]:
    """Give the readings that undo a disguise; none of a text that wears none."""
    return [_shown(view) for view in _telling(document)]


def readings(document: Document) -> list[str]:
    """Give what a model is shown of a text: all of it, undone disguises, and sentences.

    Sentences are those of the readings of the whole text, where a disguise was undone: disguised
    words fall into many pieces, and what they say stands in the reading.
    """
    views = _telling(document)
    undone = [_shown(view) for view in views]
    has_whole = any(_is_whole(view, document.text) for view in views)
    cut = [
        part
        for text in (undone if has_whole else (document.text, *undone))
        for part in _parts(text)
    ]
    shown = dict.fromkeys(text for text in (document.text, *undone, *cut) if text.strip())
    return list(shown) or [document.text]


def _telling(document: Document) -> list[View]:
    plain = document.text.lower()
    if not plain.isascii():
        # The models do not know accents; a reading without them is no other text.
        plain = "".join(
            char for char in unicodedata.normalize("NFD", plain) if not unicodedata.combining(char)
        )
    found = [view for view in document.evasion_views if _is_telling(view, plain)]
    return found[:_READINGS_MAX]


def _shown(view: View) -> str:
    return view.utf8.text[:_READING_CHARS_MAX]


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
