"""Language by frequent words and letters: which language a text is in, as far as that is certain.

Twelve languages by their most frequent words, others by script. A text with fewer than three known
words has no certain language and is never a finding: better silent than wrong on short texts.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.guardrails.domain.document import Document
from services.guardrails.domain.params import ParamsError, check_names, string_list
from services.guardrails.domain.verdict import Detection

_FREQUENT = {
    "en": "the of and to in is that it was for on are with as his they at be this have from or had "
    "by not but what all were when your can said there use an each which she do how their if will",
    "de": "der die das und ist nicht ich du wir sie es ein eine zu den mit sich auf für von dem im "
    "wie auch an als bei nach aus wenn nur noch war wird haben sind oder aber mich mir dich",
    "fr": "le la les et est de des un une que qui dans pour pas sur au avec ce il elle nous vous "
    "ils sont je tu mais ou où par plus tout cette être avoir fait comme mon ses aux",
    "es": "el la los las y es de que en un una por con no para su se lo como más pero sus le ya o "
    "este sí porque esta entre cuando muy sin sobre también me hasta hay donde quien desde",
    "it": "il lo la i gli le e è di che un una in per con non si da come più ma anche sono della "
    "nel alla questo quando ho hai ha mi ti ci se dove perché molto tutto suo sua",
    "pt": "o a os as e é de que em um uma para com não por se na no mais como mas foi ao ele das "
    "tem à seu sua ou ser quando muito há nos já está eu também só pelo pela até isso",
    "nl": "de het een en is van dat in te niet op met voor zijn er aan ook als maar om dan zij wij "
    "bij nog uit door over ik je hij ze wat naar heeft deze werd worden kan mijn",
    "pl": "i w nie na się z do to że jest o jak ale po co tak za od ja ty on przez już tylko jego "
    "dla jej czy był może jeszcze być są mnie ten gdzie kiedy bardzo",
    "sv": "och i att det som en på är av för med den till inte om ett han var jag men sig så från "
    "vi har de hon kan nu när vara här där mycket bara eller min",
    "da": "og i at det er en til på som den de for med af ikke der var jeg han et har om vi "
    "fra men sig kan hun nu så over da ved ud blev vil meget hvor",
    "fi": "ja on ei se että oli hän en ole mutta kun niin mitä minä sinä joka kuin olen nyt "
    "jos voi myös sitten vain hyvin tämä mikä olla sen ovat",
    "tr": "ve bir bu da de için ile ne çok daha ben sen o gibi ama en var mı kadar sonra olarak "  # noqa: RUF001 - Turkish has a dotless i
    "değil her şey biz ki olan ya diye",
}
_SCRIPTS = {
    "ru": "\u0400-\u04ff", "el": "\u0370-\u03ff", "he": "\u0590-\u05ff", "ar": "\u0600-\u06ff",
    "hi": "\u0900-\u097f", "th": "\u0e00-\u0e7f", "ko": "\uac00-\ud7af", "ja": "\u3040-\u30ff",
    "zh": "\u4e00-\u9fff",
}  # fmt: skip
_OWNERS: dict[str, list[str]] = {}
for _language, _words in _FREQUENT.items():
    for _word in _words.split():
        _OWNERS.setdefault(_word, []).append(_language)
_WORD = re.compile(r"[^\W\d_]+")
_OTHER_SCRIPT = {name: re.compile(f"[{ranges}]") for name, ranges in _SCRIPTS.items()}
LANGUAGES = frozenset({*_FREQUENT, *_SCRIPTS})
_KNOWN_MIN = 3
_CHARS_READ = 4_000


def language_of(text: str) -> tuple[str, float]:
    """Give the language and how sure that is, 0 to 1; `("", 0.0)` when it is not certain."""
    read = text[:_CHARS_READ].lower()
    letters = sum(char.isalpha() for char in read)
    for name in ("ja", "ko", "ru", "el", "he", "ar", "hi", "th", "zh"):
        share = len(_OTHER_SCRIPT[name].findall(read)) / max(letters, 1)
        if letters >= _KNOWN_MIN and share > (0.1 if name == "ja" else 0.5):
            return name, min(1.0, 0.5 + share / 2)
    votes: Counter[str] = Counter()
    known = 0
    for word in _WORD.findall(read):
        owners = _OWNERS.get(word, ())
        known += bool(owners)
        for owner in owners:
            votes[owner] += 1
    if known < _KNOWN_MIN:
        return "", 0.0
    (best, most), *rest = votes.most_common(2)
    second = rest[0][1] if rest else 0
    return (best, round(most / known, 4)) if most > second else ("", 0.0)


@dataclass(frozen=True)
class LanguageParams:
    """Languages that are welcome, as ISO 639-1 codes."""

    allowed: frozenset[str]


class LanguageValidator:
    """Finds texts in another language than the policy allows."""

    name = "language"
    kind = "window"
    version = "1.0.0"
    labels = ("OTHER_LANGUAGE",)
    max_span = 0
    lookahead = 0

    def parse(self, params: Mapping[str, Any]) -> LanguageParams:
        """Read `allowed`."""
        check_names(params, {"allowed"})
        allowed = string_list(params, "allowed")
        if not allowed or not set(allowed) <= LANGUAGES:
            raise ParamsError("/allowed", "must list languages that are known, such as en or de")
        return LanguageParams(frozenset(allowed))

    def hold(self, params: LanguageParams) -> int:
        """Hold nothing: a stream judges windows instead."""
        return 0

    def detect(self, document: Document, params: LanguageParams) -> Detection:
        """Score how sure the text is in a language that is not allowed."""
        language, sure = language_of(document.text)
        is_other = bool(language) and language not in params.allowed
        scores = {"OTHER_LANGUAGE": sure} if is_other else {}
        return Detection(scores=scores, version=self.version)


_TOPIC_WORD = re.compile(r"[^\W_]+")


class TopicsValidator:
    """Finds texts about topics, each a list of words and phrases of which several must occur.

    A topic's score is the share of its weight that was met: 1 with `needed` different words or
    more. Words are compared whole, in lower case, with homoglyphs and zero-width characters undone.
    """

    name = "topics"
    kind = "window"
    version = "1.0.0"
    labels = ("TOPIC",)
    max_span = 0
    lookahead = 0

    def parse(self, params: Mapping[str, Any]) -> dict[str, tuple[frozenset[str], int]]:
        """Read `topics` {name: [words]} and `needed`, how many different words make a topic."""
        check_names(params, {"topics", "needed"})
        topics, needed = params.get("topics"), params.get("needed", 2)
        if not isinstance(topics, Mapping) or not 1 <= len(topics) <= 50:
            raise ParamsError("/topics", "must be a table of 1 to 50 topics")
        if isinstance(needed, bool) or not isinstance(needed, int) or not 1 <= needed <= 20:
            raise ParamsError("/needed", "must be a whole number from 1 to 20")
        parsed = {}
        for name in topics:
            words = string_list(topics, name)
            if not words or not all(_TOPIC_WORD.search(word) for word in words):
                raise ParamsError(f"/topics/{name}", "must be a list of words")
            parsed[str(name)] = (frozenset(_plain(word) for word in words), needed)
        return parsed

    def hold(self, params: dict[str, tuple[frozenset[str], int]]) -> int:
        """Hold nothing: a stream judges windows instead."""
        return 0

    def detect(
        self, document: Document, params: dict[str, tuple[frozenset[str], int]]
    ) -> Detection:
        """Score each topic; its label is `TOPIC:<name>`."""
        views = [f" {_plain(view.utf8.text)} " for view in document.evasion_views]
        scores = {}
        for name, (words, needed) in params.items():
            met = sum(any(f" {word} " in view for view in views) for word in words)
            if met:
                scores[f"TOPIC:{name}"] = min(1.0, met / needed)
        return Detection(scores=scores, version=self.version)


def _plain(text: str) -> str:
    return " ".join(_TOPIC_WORD.findall(text.lower()))
