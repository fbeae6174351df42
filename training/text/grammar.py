"""Rows from a grammar of what sentences do: meant, denied, quoted, threatened, joked, asked.

`grammars/*.toml` hold slots (lists of words and clauses) and kinds (forms with labels). Every list,
of forms, slots and groups alike, is cut in two: training rows are written with the larger part
alone and held-out rows with the smaller part alone, so that a held-out row shares no form, no
group and no clause with any training row.
"""

import base64
import hashlib
import random
import re
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from training.text.sources import HELD, Row

FOLDER = Path(__file__).parent / "grammars"
HEADS = ("toxic", "hate", "sexist", "injection", "violence", "self_harm", "sexual")
HELD_SHARE = 0.15
DISGUISED_SHARE = 0.12

# Plural, one member with its article, bare singular.
GROUPS: tuple[tuple[str, str, str], ...] = (
    ("women", "a woman", "woman"),
    ("girls", "a girl", "girl"),
    ("feminists", "a feminist", "feminist"),
    ("housewives", "a housewife", "housewife"),
    ("black women", "a black woman", "black woman"),
    ("Muslim women", "a Muslim woman", "Muslim woman"),
    ("single mothers", "a single mother", "single mother"),
    ("female drivers", "a female driver", "female driver"),
    ("men", "a man", "man"),
    ("trans people", "a trans person", "trans person"),
    ("transgender people", "a transgender person", "transgender person"),
    ("trans women", "a trans woman", "trans woman"),
    ("transsexuals", "a transsexual", "transsexual"),
    ("nonbinary people", "a nonbinary person", "nonbinary person"),
    ("gay people", "a gay person", "gay person"),
    ("gays", "a gay man", "gay"),
    ("homosexuals", "a homosexual", "homosexual"),
    ("lesbians", "a lesbian", "lesbian"),
    ("bisexuals", "a bisexual", "bisexual"),
    ("queer people", "a queer person", "queer person"),
    ("black people", "a black person", "black person"),
    ("blacks", "a black man", "black"),
    ("African Americans", "an African American", "African American"),
    ("Africans", "an African", "African"),
    ("white people", "a white person", "white person"),
    ("Asians", "an Asian", "Asian"),
    ("Chinese people", "a Chinese person", "Chinese person"),
    ("Japanese people", "a Japanese person", "Japanese person"),
    ("Koreans", "a Korean", "Korean"),
    ("Indians", "an Indian", "Indian"),
    ("Pakistanis", "a Pakistani", "Pakistani"),
    ("Arabs", "an Arab", "Arab"),
    ("Turks", "a Turk", "Turk"),
    ("Iranians", "an Iranian", "Iranian"),
    ("Mexicans", "a Mexican", "Mexican"),
    ("Latinos", "a Latino", "Latino"),
    ("Hispanics", "a Hispanic", "Hispanic"),
    ("Romanians", "a Romanian", "Romanian"),
    ("Poles", "a Pole", "Pole"),
    ("Roma people", "a Roma person", "Roma person"),
    ("Indigenous people", "an Indigenous person", "Indigenous person"),
    ("Aboriginals", "an Aboriginal", "Aboriginal"),
    ("Muslims", "a Muslim", "Muslim"),
    ("Jews", "a Jew", "Jew"),
    ("Jewish people", "a Jewish person", "Jewish person"),
    ("Christians", "a Christian", "Christian"),
    ("Catholics", "a Catholic", "Catholic"),
    ("Hindus", "a Hindu", "Hindu"),
    ("Sikhs", "a Sikh", "Sikh"),
    ("Buddhists", "a Buddhist", "Buddhist"),
    ("atheists", "an atheist", "atheist"),
    ("immigrants", "an immigrant", "immigrant"),
    ("migrants", "a migrant", "migrant"),
    ("refugees", "a refugee", "refugee"),
    ("asylum seekers", "an asylum seeker", "asylum seeker"),
    ("foreigners", "a foreigner", "foreigner"),
    ("disabled people", "a disabled person", "disabled person"),
    ("the disabled", "a disabled man", "disabled guy"),
    ("wheelchair users", "a wheelchair user", "wheelchair user"),
    ("deaf people", "a deaf person", "deaf person"),
    ("blind people", "a blind person", "blind person"),
    ("autistic people", "an autistic person", "autistic person"),
    ("people with Down syndrome", "a person with Down syndrome", "person with Down syndrome"),
    ("old people", "an old person", "old person"),
    ("poor people", "a poor person", "poor person"),
)
# Groups of the held-out rows.
HELD_GROUPS = frozenset(
    {"housewives", "bisexuals", "Koreans", "Pakistanis", "Romanians", "Catholics", "Sikhs"}
    | {"asylum seekers", "wheelchair users", "poor people"}
)
_WOMEN = re.compile(r"\b(women|girls|feminists|housewives|mothers|female|lesbians)\b")
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE = re.compile(r"(^|[.!?] )([a-z])")
_EXTRA: dict[str, Sequence[str]] = {
    "bad_emoji": ["🤮", "🤢", "💩", "🤡", "👎", "😡", "😒", "🖕", "🦠"],
    "animal_emoji": ["🐀", "🐒", "🐷", "🐍", "🪳", "🐕", "🦍", "🐖", "🐛"],
    "bin_emoji": ["🗑️", "🚮", "🚽", "⚰️"],
    "weapon_emoji": ["🔫", "🔪", "💣", "🔥", "🪓", "⚔️", "💥"],
    "good_emoji": ["🥰", "❤️", "😍", "👏", "🎉", "😊", "🌈", "💪", "🙏", "🤗"],
    "profane": ["fuck", "shit", "damn", "holy crap", "bloody hell", "hell", "damn it", "oh fuck"],
    "swear": ["fucking", "damn", "bloody", "goddamn", "freaking", "fuckin", "shitty"],
    "swear2": ["fuck", "shit", "hell", "crap"],
    "insult": [
        *("moron", "idiot", "clown", "loser", "bastard", "asshole", "dumbass", "pig", "prick"),
        *("coward", "imbecile", "liar", "creep", "piece of trash", "dickhead", "jerk", "wanker"),
        *("scumbag", "fool", "cretin", "retard", "troll", "muppet", "douchebag"),
    ],
}


def side_of(items: Sequence[Any], *, held: bool) -> list[Any]:
    """Give one part of a list; the cut depends on the words alone.

    Lists of less than four are too short to cut and serve both sides.
    """
    if len(items) < 4:
        return list(items)
    ranked = sorted(items, key=lambda item: hashlib.sha256(repr(item).encode()).digest())
    cut = max(1, round(len(items) * HELD_SHARE))
    kept = set(map(repr, ranked[:cut]))
    return [item for item in items if (repr(item) in kept) == held]


@cache
def load() -> tuple[dict[str, list[str]], dict[str, list[str]], list[dict[str, Any]]]:
    """Read all grammars.

    Returns:
        Slots, further words of slots for training rows alone, kinds.
    """
    slots: dict[str, list[str]] = {}
    more: dict[str, list[str]] = {}
    kinds: list[dict[str, Any]] = []
    for path in sorted(FOLDER.glob("*.toml")):
        found = tomllib.loads(path.read_text(encoding="utf8"))
        more |= found.get("more", {})
        own = found.get("slots", {})
        twice = slots.keys() & own.keys()
        if twice:
            raise ValueError(f"{path.name}: slots named twice: {sorted(twice)}")
        slots |= own
        kinds += found.get("kinds", [])
    return slots, more, kinds


class Writer:
    """Writes rows with one side of every list."""

    def __init__(
        self, rng: random.Random, words: Mapping[str, Sequence[str]], *, held: bool
    ) -> None:
        """Build.

        Args:
            rng: of all choices.
            words: slots that are not in the files, such as slurs of a word list.
            held: whether the held-out parts are used.
        """
        slots, more, self.kinds = load()
        every: dict[str, Sequence[str]] = {**slots, **_EXTRA, **words}
        self._slots = {name: side_of(items, held=held) for name, items in every.items()}
        if not held:
            for name, items in more.items():
                known = set(map(str, every[name]))
                self._slots[name] = [*self._slots[name], *(x for x in items if x not in known)]
        self._forms = {kind["name"]: side_of(kind["forms"], held=held) for kind in self.kinds}
        self._groups = [group for group in GROUPS if (group[0] in HELD_GROUPS) == held]
        self._held = held
        self._rng = rng

    def row(self, kind: Mapping[str, Any]) -> Row:
        """Write one row of a kind."""
        rng = self._rng
        group = rng.choice(self._groups)
        form = rng.choice(self._forms[kind["name"]])
        text = self._filled(form, group)
        if rng.random() < 0.7:
            text = _SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)
        if rng.random() < DISGUISED_SHARE:
            text = disguised(text, rng)
        side = HELD if self._held else ""
        labels = _labels(kind["labels"], group[0])
        return Row(text, "grammar", labels, cluster=f"{side}g:{kind['name']}:{form}")

    def _filled(self, form: str, group: tuple[str, str, str]) -> str:
        own = dict(zip("gsn", group, strict=True))

        def value(match: re.Match[str]) -> str:
            name = match[1]
            return own.get(name) or self._filled(self._rng.choice(self._slots[name]), group)

        return _SLOT.sub(value, form)


def _labels(meant: Mapping[str, Any], group: str) -> dict[str, float]:
    """Give the labels: what is not said is 0, but a toxic text may be violent or sexist."""
    found: dict[str, float] = {}
    for head in HEADS:
        value = meant.get(head, "?" if meant.get("toxic") == 1 and head == "violence" else 0)
        if value == "w":
            value = 1 if _WOMEN.search(group) else 0
        if value != "?":
            found[head] = float(value)
    return found


def disguised(text: str, rng: random.Random) -> str:
    """Spell a text the way people do who hurry or hide."""
    kind = rng.randrange(8)
    if kind == 0:
        return text.translate(str.maketrans("aeiost", "4310$7"))
    if kind == 1:
        return text.upper()
    if kind == 2:
        return text.lower().replace("'", "").rstrip(".!?")
    words = text.split(" ")
    long = [at for at, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    for at in rng.sample(long, min(len(long), rng.randint(1, 2))):
        words[at] = _misspelt(words[at], kind, rng)
    if kind == 7 and len(words) > 2:
        at = rng.randrange(len(words) - 1)
        words[at : at + 2] = [words[at] + words[at + 1]]
    return " ".join(words)


def _misspelt(word: str, kind: int, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    if kind == 3:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 4:
        return word[:at] + word[at + 1 :]
    if kind == 5:
        return word[:at] + word[at] * 3 + word[at + 1 :]
    return " ".join(word) if kind == 6 else word[:at] + "*" + word[at + 1 :]


def noise(seed: int, count: int = 300) -> list[str]:
    """Make strings that say nothing: digests, identifiers, numbers, encoded bytes."""
    rng = random.Random(seed)

    def one() -> str:
        data = rng.randbytes(rng.randint(6, 36))
        kind = rng.randrange(5)
        if kind == 0:
            return base64.b64encode(data).decode()
        if kind == 1:
            return data.hex()[: rng.choice((7, 12, 32, 40))]
        if kind == 2:
            return str(uuid.UUID(bytes=rng.randbytes(16)))
        if kind == 3:
            return f"{rng.randrange(1, 20)}.{rng.randrange(30)}.{rng.randrange(90)}"
        return "".join(rng.choices("ABCDEFGHJKMNPQRSTUVWXYZ23456789-_", k=rng.randint(5, 14)))

    return [one() for _ in range(count)]


def rows(
    seed: int, *, training: int, held: int, words: Mapping[str, Sequence[str]] | None = None
) -> list[Row]:
    """Write about so many rows, each text once.

    Args:
        seed: of all choices.
        training: rows that may be trained on.
        held: rows that may not.
        words: the slots `slur` and `sexword`, from word lists that are not in this repository.
    """
    lists = {"slur": ["slur"], "sexword": ["sex"], **(words or {}), "noise": noise(seed)}
    found: list[Row] = []
    for count, is_held in ((training, False), (held, True)):
        writer = Writer(random.Random(seed + is_held), lists, held=is_held)
        weights = [kind["weight"] for kind in writer.kinds]
        for kind, weight in zip(writer.kinds, weights, strict=True):
            own: dict[str, Row] = {}
            for _ in range(round(count * weight / sum(weights))):
                row = writer.row(kind)
                own[row.text] = row
            found += own.values()
    return found
