"""Generated texts with known personal data and secrets, and hard negatives beside them.

Values are drawn from the published formats (ISO 7812, ISO 13616, the numbering plans, the issuers'
documentation of token formats) with checksums computed here, apart from the code under test. Half
of the texts hold only what looks alike: order numbers, hashes, versions, placeholders.
"""

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from libs.cli.quality import Marked

_ALNUM = string.ascii_letters + string.digits
_FIRST = ("anna", "li", "omar", "joão", "petra", "sam", "nadia", "k.muller", "o_brien", "x9")
_HOSTS = ("mail.example.org", "acme.co.uk", "uni-bonn.de", "gmail.com", "sub.dept.gov", "ünal.com")


@dataclass(frozen=True, slots=True)
class Text:
    """One text with its true spans."""

    text: str
    spans: tuple[Marked, ...]


Maker = Callable[[random.Random], str]


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice(string.digits) for _ in range(count))


def _luhn(body: str) -> str:
    total = 0
    for place, char in enumerate(reversed(body)):
        value = int(char) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def card(draw: random.Random) -> str:
    """Visa, Mastercard, Amex, Discover or a 13-digit Visa, plain or grouped."""
    prefix, size = draw.choice(
        (("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("37", 15), ("6011", 16), ("4", 13))
    )
    number = _luhn(prefix + _digits(draw, size - len(prefix) - 1))
    separator = draw.choice(("", " ", "-"))
    if size == 15:
        return separator.join((number[:4], number[4:10], number[10:]))
    return separator.join(number[i : i + 4] for i in range(0, size, 4))


def iban(draw: random.Random) -> str:
    """An IBAN of one of eight countries, plain or in groups of four."""
    country, body = draw.choice(
        (
            ("DE", _digits(draw, 18)), ("GB", "".join(draw.choices(string.ascii_uppercase, k=4))
             + _digits(draw, 14)), ("NO", _digits(draw, 11)), ("FR", _digits(draw, 23)),
            ("ES", _digits(draw, 20)), ("NL", "ABNA" + _digits(draw, 10)),
            ("CH", _digits(draw, 17)), ("PL", _digits(draw, 24)),
        )
    )  # fmt: skip
    rearranged = body + country + "00"
    number = int("".join(str(int(char, 36)) for char in rearranged))
    whole = f"{country}{98 - number % 97:02d}{body}"
    if draw.random() < 0.5:
        return whole
    return " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))


def ssn(draw: random.Random) -> str:
    """A US social security number of an area that is given out."""
    area = draw.choice([a for a in range(1, 900) if a != 666])
    return f"{area:03d}-{draw.randint(1, 99):02d}-{draw.randint(1, 9999):04d}"


def email(draw: random.Random) -> str:
    """An address."""
    tail = draw.choice(("", ".lee", "+news", "1987", "_x"))
    return f"{draw.choice(_FIRST)}{tail}@{draw.choice(_HOSTS)}"


def ip(draw: random.Random) -> str:
    """An IPv4 or IPv6 address."""
    if draw.random() < 0.3:
        return ":".join(f"{draw.randint(1, 65535):x}" for _ in range(8))
    return ".".join(str(draw.randint(1, 254)) for _ in range(4))


def phone(draw: random.Random) -> str:
    """A phone number as people of five countries write it."""
    d = draw
    return d.choice(
        (
            lambda: f"({d.randint(201, 989)}) {d.randint(201, 989)}-{_digits(d, 4)}",
            lambda: f"{d.randint(201, 989)}-{d.randint(201, 989)}-{_digits(d, 4)}",
            lambda: f"+1 {d.randint(201, 989)} {d.randint(201, 989)} {_digits(d, 4)}",
            lambda: f"+44 20 {_digits(d, 4)} {_digits(d, 4)}",
            lambda: f"+49 {d.randint(30, 99)} {d.randint(100000, 9999999)}",
            lambda: (
                f"+33 {d.randint(1, 7)} {_digits(d, 2)} {_digits(d, 2)} {_digits(d, 2)} "
                f"{_digits(d, 2)}"
            ),
            lambda: f"{d.randint(201, 989)}.{d.randint(201, 989)}.{_digits(d, 4)}",
            lambda: f"07{_digits(d, 3)} {_digits(d, 6)}",
            lambda: f"{d.randint(201, 989)}{d.randint(201, 989)}{_digits(d, 4)}",
        )
    )()


def licence(draw: random.Random) -> str:
    """A US driver licence: California, New York, Florida or Illinois."""
    letter = draw.choice(string.ascii_uppercase)
    return draw.choice(
        (
            f"{letter}{_digits(draw, 7)}", _digits(draw, 9), f"{letter}{_digits(draw, 12)}",
            f"{letter}{_digits(draw, 3)}-{_digits(draw, 4)}-{_digits(draw, 4)}",
        )
    )  # fmt: skip


_PII: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "EMAIL_ADDRESS": (
        email,
        ("Write to {} please.", "{} is my mail", "cc: {}, thanks", "<{}>", "mailto:{}?subject=a"),
    ),
    "IBAN_CODE": (
        iban,
        ("Pay to {} by Friday.", "IBAN: {}", "account {}, bank code follows", "{} is wrong"),
    ),
    "US_SSN": (ssn, ("My SSN is {}.", "{} is on the form", "social security {}", "id={}")),
    "IP_ADDRESS": (ip, ("login from {} failed", "host {} is down", "[{}]", "ping {}, then wait")),
    "CREDIT_CARD": (
        card,
        ("Charge {} today.", "card {} exp 10/29", "{}", "I paid with {}, twice", "cc={}"),
    ),
    "PHONE_NUMBER": (
        phone,
        ("Call me at {}.", "phone: {}", "Tel {}", "my mobile is {}", "reach us on {} any time"),
    ),
    "US_DRIVER_LICENSE": (
        licence,
        ("driver license {}", "My driver's license number is {}.", "DL {} issued in CA"),
    ),
}


def _bad_card(draw: random.Random) -> str:
    number = card(draw).replace(" ", "").replace("-", "")
    return number[:-1] + str((int(number[-1]) + draw.randint(1, 9)) % 10)


_NEGATIVES: tuple[Callable[[random.Random], str], ...] = (
    lambda d: f"Order {_digits(d, 10)} shipped on time.",
    lambda d: f"Invoice {_bad_card(d)} is open.",
    lambda d: f"commit {''.join(d.choices('0123456789abcdef', k=40))} fixes it",
    lambda d: (
        "uuid " + "-".join("".join(d.choices("0123456789abcdef", k=n)) for n in (8, 4, 4, 4, 12))
    ),
    lambda d: f"version {d.randint(1, 9)}.{d.randint(0, 99)}.{d.randint(0, 99)} is out",
    lambda d: f"at {d.randint(10, 23)}:{d.randint(10, 59)}:{d.randint(10, 59)} the job ended",
    lambda d: f"the total is {d.randint(1000, 9999999)} euros and {_digits(d, 2)} cents",
    lambda d: f"part no. {_digits(d, 3)}-{_digits(d, 3)}",
    lambda d: f"timestamp {d.randint(1_500_000_000, 1_800_000_000)} in the log",
    lambda d: f"see @{d.choice(_FIRST)} and file_{_digits(d, 6)}.txt",
    lambda d: f"coordinates {d.uniform(-90, 90):.6f}, {d.uniform(-180, 180):.6f}",
    lambda d: f"ISBN 978-{_digits(d, 1)}-{_digits(d, 4)}-{_digits(d, 4)}-{_digits(d, 1)}",
    lambda d: f"tracking {d.choice('ABC')}{_digits(d, 9)} arrived",
)


def _token(draw: random.Random, count: int, alphabet: str = _ALNUM) -> str:
    return "".join(draw.choices(alphabet, k=count))


_HEX = "0123456789abcdef"
_SECRETS: dict[str, Maker] = {
    "AWS_ACCESS_KEY": lambda d: "AKIA" + _token(d, 16, string.ascii_uppercase + "234567"),
    "GITHUB_TOKEN": lambda d: f"gh{d.choice('pousr')}_{_token(d, 36)}",
    "GITLAB_TOKEN": lambda d: f"glpat-{_token(d, 20)}",
    "SLACK_TOKEN": lambda d: f"xoxb-{_digits(d, 12)}-{_digits(d, 12)}-{_token(d, 24)}",
    "STRIPE_KEY": lambda d: f"sk_live_{_token(d, 24)}",
    "GOOGLE_API_KEY": lambda d: f"AIza{_token(d, 35)}",
    "HUGGINGFACE_TOKEN": lambda d: f"hf_{_token(d, 34, string.ascii_letters)}",
    "NPM_TOKEN": lambda d: f"npm_{_token(d, 36)}",
    "SENDGRID_KEY": lambda d: f"SG.{_token(d, 22)}.{_token(d, 43)}",
    "JWT": lambda d: f"eyJ{_token(d, 30)}.eyJ{_token(d, 60)}.{_token(d, 43)}",
    "PRIVATE_KEY": lambda d: (
        "-----BEGIN RSA PRIVATE KEY-----\n"
        + "\n".join(_token(d, 64) for _ in range(6))
        + "\n-----END RSA PRIVATE KEY-----"
    ),
    "PASSWORD": lambda d: _token(d, 8) + d.choice("!#%") + _digits(d, 3),
}
_SECRET_TEMPLATES = ("token: {}", "export KEY={}", "use {} here", 'config = "{}"', "({})")
_SECRET_NEGATIVES: tuple[Callable[[random.Random], str], ...] = (
    lambda d: f"sha256 {_token(d, 64, _HEX)}",
    lambda d: "password = changeme",
    lambda d: 'api_key = os.getenv("API_KEY")',
    lambda d: "token: ${GITHUB_TOKEN}",
    lambda d: f"data:image/png;base64,{_token(d, 120)}",
    lambda d: f"commit {_token(d, 40, _HEX)}",
    lambda d: "id " + "-".join(_token(d, n, _HEX) for n in (8, 4, 4, 4, 12)),
    lambda d: "the password policy asks for twelve characters",
    lambda d: f"ghp_{'x' * 36}",
    lambda d: "AKIAIOSFODNN7EXAMPLE",
    lambda d: "secret santa is on friday, bring a token gift",
    lambda d: f"sk_test_{'0' * 24}",
)


def _fill(template: str, value: str, label: str) -> Text:
    start = template.index("{}")
    return Text(template.replace("{}", value), (Marked(start, start + len(value), label),))


def pii(count: int, seed: int) -> Iterator[Text]:
    """Give texts, half with one value of one of seven kinds and half hard negatives."""
    draw = random.Random(seed)
    kinds = list(_PII)
    for number in range(count):
        if number % 2:
            yield Text(draw.choice(_NEGATIVES)(draw), ())
        else:
            label = kinds[number // 2 % len(kinds)]
            make, templates = _PII[label]
            yield _fill(draw.choice(templates), make(draw), label)


def secrets(count: int, seed: int) -> Iterator[Text]:
    """Give texts, half with one credential of one of twelve kinds and half hard negatives."""
    draw = random.Random(seed)
    kinds = list(_SECRETS)
    for number in range(count):
        if number % 2:
            yield Text(draw.choice(_SECRET_NEGATIVES)(draw), ())
        else:
            label = kinds[number // 2 % len(kinds)]
            template = "password = {}" if label == "PASSWORD" else draw.choice(_SECRET_TEMPLATES)
            yield _fill(template, _SECRETS[label](draw), label)
