"""Windows of a text for models: sentences, and stretches of a stream that can be judged alone.

Borders depend on the text alone, never on how it arrived, so a streamed text meets the same windows
whatever its chunks.
"""

import re

# Ends of sentences; the white space behind belongs to the sentence.
_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u2019\u201d)]*\s+|\n+")
# A sentence shorter than this says too little: it joins the next one.
SENTENCE_CHARS_MIN = 20
# A sentence longer than this is cut at a space.
WINDOW_CHARS_MAX = 600
WINDOWS_MAX = 32


def sentences(text: str) -> list[str]:
    """Give the sentences of a text, at most WINDOWS_MAX; neighbours join when there are more."""
    found = [text[start:end] for start, end in windows(text, ended=True)]
    found = [part for part in found if part.strip()]
    step = -(-len(found) // WINDOWS_MAX) if found else 1
    return ["".join(found[at : at + step]) for at in range(0, len(found), step)]


def windows(text: str, *, ended: bool) -> list[tuple[int, int]]:
    """Give the borders of the windows that are complete; the rest waits for more text.

    Args:
        text: from the end of the last window on.
        ended: nothing follows, so the rest is a window too.
    """
    found: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = _end_of(text, start, ended=ended)
        if end is None:
            break
        found.append((start, end))
        start = end
    return found


def _end_of(text: str, start: int, *, ended: bool) -> int | None:
    """Give where the window that starts here ends, None when that cannot be known yet."""
    limit = start + WINDOW_CHARS_MAX
    for match in _END.finditer(text, start, limit):
        # White space at the end of what arrived may go on.
        if match.end() == len(text) and not ended:
            return None
        if match.end() - start >= SENTENCE_CHARS_MIN:
            return match.end()
    if len(text) >= limit:
        space = text.rfind(" ", start, limit)
        return space + 1 if space > start else limit
    return len(text) if ended else None
