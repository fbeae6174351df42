"""Checksums and format checks of identifiers: pure functions from text to true or false.

Each takes the matched text as written (separators included). A rule names its check; true raises
the score to 1.0 and false drops the match.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable
from datetime import date

from services.guardrails.domain.names import COUNTRIES, IBAN_LENGTHS, TOP_LEVEL_DOMAINS

_NOT_ALNUM = re.compile(r"[^0-9A-Za-z]")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def _digits(text: str) -> list[int]:
    return [int(char) for char in text if char in "0123456789"]


def _bare(text: str) -> str:
    return _NOT_ALNUM.sub("", text).upper()


def _weighted(digits: list[int], weights: tuple[int, ...]) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def _valid_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def luhn(text: str) -> bool:
    """ISO/IEC 7812 check digit; a run of one repeated digit is no number."""
    digits = _digits(text)
    if len(set(digits)) < 2:
        return False
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def card(text: str) -> bool:
    """Payment card: 13 to 19 digits, Luhn."""
    return 13 <= len(_digits(text)) <= 19 and luhn(text)


def iban(text: str) -> bool:
    """ISO 13616: known country, its length, mod 97 equal to 1."""
    bare = _bare(text)
    if IBAN_LENGTHS.get(bare[:2]) != len(bare):
        return False
    return int("".join(str(int(char, 36)) for char in bare[4:] + bare[:4])) % 97 == 1


def us_ssn(text: str) -> bool:
    """US social security number: areas 000, 666 and 9xx, group 00, serial 0000 and samples out."""
    bare = "".join(map(str, _digits(text)))
    if bare in {"078051120", "123456789", "219099999", "457555462"} or len(set(bare)) == 1:
        return False
    return not (
        bare[:3] in {"000", "666"} or bare[0] == "9" or bare[3:5] == "00" or bare[5:] == "0000"
    )


def us_itin(text: str) -> bool:
    """US ITIN: 9xx and a group of 50-65, 70-88, 90-92 or 94-99."""
    group = int("".join(map(str, _digits(text)))[3:5])
    return 50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or group >= 94


def aba(text: str) -> bool:
    """US bank routing number: weights 3, 7, 1."""
    digits = _digits(text)
    return len(digits) == 9 and any(digits) and _weighted(digits, (3, 7, 1) * 3) % 10 == 0


def dea(text: str) -> bool:
    """US DEA licence: two letters, six digits, one check digit."""
    digits = _digits(text)
    odd, even = sum(digits[0:6:2]), sum(digits[1:6:2])
    return len(digits) == 7 and (odd + 2 * even) % 10 == digits[6]


def npi(text: str) -> bool:
    """US national provider identifier: Luhn over 80840 and the number."""
    return luhn("80840" + "".join(map(str, _digits(text))))


def nhs(text: str) -> bool:
    """UK NHS number: mod 11 over nine digits."""
    digits = _digits(text)
    if len(digits) != 10 or len(set(digits)) == 1:
        return False
    check = 11 - _weighted(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2)) % 11
    return check % 11 == digits[9] and check != 10


def es_nif(text: str) -> bool:
    """Spanish NIF and NIE: letter by mod 23."""
    bare = _bare(text)
    number = {"X": "0", "Y": "1", "Z": "2"}.get(bare[0], bare[0]) + bare[1:-1]
    return number.isdigit() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == bare[-1]


_FISCAL_ODD = (
    *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18),
    *(20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
)


def it_fiscal(text: str) -> bool:
    """Italian codice fiscale: odd and even tables, mod 26."""
    bare = _bare(text)
    total = 0
    for index, char in enumerate(bare[:15]):
        value = int(char) if char.isdigit() else ord(char) - 65
        total += _FISCAL_ODD[value] if index % 2 == 0 else value
    return len(bare) == 16 and chr(65 + total % 26) == bare[15]


def pl_pesel(text: str) -> bool:
    """Polish PESEL: weights 1, 3, 7, 9."""
    digits = _digits(text)
    return (10 - _weighted(digits[:10], (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10) % 10 == digits[10]


def fi_hetu(text: str) -> bool:
    """Finnish personal identity code: mod 31 letter and a real day."""
    bare = text.upper()
    number = int(bare[:6] + bare[7:10])
    is_day = _valid_date(2000, int(bare[2:4]), int(bare[:2]))
    return is_day and "0123456789ABCDEFHJKLMNPRSTUVWXY"[number % 31] == bare[10]


def au_abn(text: str) -> bool:
    """Australian business number: first digit less one, mod 89."""
    digits = _digits(text)
    digits[0] -= 1
    return _weighted(digits, (10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19)) % 89 == 0


def au_acn(text: str) -> bool:
    """Australian company number: weights 8 to 1."""
    digits = _digits(text)
    return (10 - _weighted(digits[:8], (8, 7, 6, 5, 4, 3, 2, 1)) % 10) % 10 == digits[8]


def au_tfn(text: str) -> bool:
    """Australian tax file number: mod 11."""
    digits = _digits(text)
    return any(digits) and _weighted(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def au_medicare(text: str) -> bool:
    """Australian Medicare number: weights 1, 3, 7, 9 over eight digits."""
    digits = _digits(text)
    return _weighted(digits[:8], (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == digits[8]


def _dihedral(i: int, j: int) -> int:
    """Multiply in the dihedral group D5: rotations 0-4, reflections 5-9."""
    rotation = (i + j) % 5 if i < 5 else (i - j) % 5
    return rotation + (5 if (i < 5) != (j < 5) else 0)


_VERHOEFF_P = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
for _ in range(6):
    _VERHOEFF_P.append([_VERHOEFF_P[-1][_VERHOEFF_P[1][digit]] for digit in range(10)])


def verhoeff(text: str) -> bool:
    """Verhoeff check digit (Aadhaar)."""
    check = 0
    for index, digit in enumerate(reversed(_digits(text))):
        check = _dihedral(check, _VERHOEFF_P[index % 8][digit])
    return check == 0


def sg_nric(text: str) -> bool:
    """Singapore NRIC and FIN: weights 2, 7, 6, 5, 4, 3, 2."""
    bare = _bare(text)
    offset = {"S": 0, "F": 0, "T": 4, "G": 4, "M": 3}[bare[0]]
    rest = (_weighted(_digits(bare), (2, 7, 6, 5, 4, 3, 2)) + offset) % 11
    if bare[0] == "M":
        return "KLJNPQRTUWX"[10 - rest] == bare[8]
    return ("JZIHGFEDCBA" if bare[0] in "ST" else "XWUTRQPNMLK")[rest] == bare[8]


def de_tax(text: str) -> bool:
    """German tax identifier: ISO 7064 mod 11, 10; one digit of the first ten repeats."""
    digits = _digits(text)
    if digits[0] == 0 or len(set(digits[:10])) not in {8, 9}:
        return False
    return _mod11_10(digits)


def _mod11_10(digits: list[int]) -> bool:
    product = 10
    for digit in digits[:-1]:
        total = (digit + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == digits[-1]


def nl_bsn(text: str) -> bool:
    """Dutch BSN: the eleven test."""
    digits = _digits(text)
    return any(digits) and _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def fr_insee(text: str) -> bool:
    """French social security number: 97 less the number mod 97; Corsica 2A is 19, 2B is 18."""
    bare = _bare(text).replace("2A", "19", 1).replace("2B", "18", 1)
    return len(bare) == 15 and bare.isdigit() and 97 - int(bare[:13]) % 97 == int(bare[13:])


def br_cpf(text: str) -> bool:
    """Brazilian CPF: two mod 11 digits."""
    digits = _digits(text)
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    return all(
        sum(d * (size + 1 - i) for i, d in enumerate(digits[:size])) * 10 % 11 % 10 == digits[size]
        for size in (9, 10)
    )


def ch_ahv(text: str) -> bool:
    """Swiss AHV number: EAN-13."""
    digits = _digits(text)
    return (10 - _weighted(digits[:12], (1, 3) * 6) % 10) % 10 == digits[12]


def be_nrn(text: str) -> bool:
    """Belgian national number: 97 less mod 97, a leading 2 for births from 2000."""
    bare = "".join(map(str, _digits(text)))
    body, check = bare[:9], int(bare[9:])
    return check in {97 - int(body) % 97, 97 - int("2" + body) % 97}


def se_personnummer(text: str) -> bool:
    """Swedish personal number: Luhn over the last ten digits, a real day."""
    digits = _digits(text)[-10:]
    month, day = digits[2] * 10 + digits[3], digits[4] * 10 + digits[5]
    return luhn("".join(map(str, digits))) and _valid_date(2000, month, day)


def kr_rrn(text: str) -> bool:
    """Korean resident number: weights 2-9, 2-5, mod 11, and a real day."""
    digits = _digits(text)
    weights = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
    is_day = _valid_date(2000, digits[2] * 10 + digits[3], digits[4] * 10 + digits[5])
    return is_day and (11 - _weighted(digits[:12], weights) % 11) % 10 == digits[12]


def uk_utr(text: str) -> bool:
    """UK unique taxpayer reference: weights 6, 7, 8, 9, 10, 5, 4, 3, 2; the check comes first."""
    digits = _digits(text)
    rest = _weighted(digits[1:], (6, 7, 8, 9, 10, 5, 4, 3, 2)) % 11
    return digits[0] == (2, 1, 9, 8, 7, 6, 5, 4, 3, 2, 1)[rest]


def uk_nino(text: str) -> bool:
    """UK national insurance number: unused prefixes are out."""
    return _bare(text)[:2] not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}


def vin(text: str) -> bool:
    """Vehicle identification number: transliteration, check digit at place nine."""
    bare = _bare(text)
    values = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", "12345678123457923456789", strict=True))
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    if any(char not in values and not char.isdigit() for char in bare) or bare.isdigit():
        return False
    total = _weighted([int(values.get(char, char)) for char in bare], weights)
    return "0123456789X"[total % 11] == bare[8]


def bitcoin(text: str) -> bool:
    """Bitcoin address: base58check, or bech32 / bech32m."""
    if text.lower().startswith("bc1"):
        return _bech32(text)
    number = 0
    for char in text:
        number = number * 58 + _BASE58.index(char)
    if number >= 1 << 200:
        return False
    raw = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


def _bech32(text: str) -> bool:
    if text.lower() != text and text.upper() != text:
        return False
    lowered = text.lower()
    values = [ord(c) >> 5 for c in "bc"] + [0] + [ord(c) & 31 for c in "bc"]
    values += [_BECH32.find(char) for char in lowered[3:]]
    if -1 in values:
        return False
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for index, generator in enumerate(
            (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
        ):
            check ^= generator if top >> index & 1 else 0
    return check in {1, 0x2BC830A3}


def ip(text: str) -> bool:
    """IPv4 or IPv6 address; the unspecified one is none."""
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def tld(text: str) -> bool:
    """The host's last label is a top-level domain (matched against a set, never a pattern)."""
    host = re.split(r"[/?#:]", text.split("://", 1)[-1].rsplit("@", 1)[-1], maxsplit=1)[0]
    label = host.rstrip(".").rsplit(".", 1)[-1].lower()
    return label in TOP_LEVEL_DOMAINS or label.startswith("xn--") or not label.isascii()


def url(text: str) -> bool:
    """A scheme makes a URL of any host; without one the host needs a top-level domain."""
    return "://" in text or tld(text)


def swift(text: str) -> bool:
    """ISO 9362: the fifth and sixth letters are a country."""
    return _bare(text)[4:6] in COUNTRIES


def mac(text: str) -> bool:
    """MAC address: neither all zero nor broadcast."""
    return _bare(text) not in {"000000000000", "FFFFFFFFFFFF"}


def phone(text: str) -> bool:
    """E.164 size: 7 to 15 digits, not all equal."""
    digits = _digits(text)
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2


def day(text: str) -> bool:
    """A calendar date in ISO order or with the year last, month and day in either order."""
    parts = [int(part) for part in re.split(r"\D+", text)[:3]]
    if parts[0] > 31:
        return _valid_date(parts[0], parts[1], parts[2])
    year = parts[2] if parts[2] > 99 else 2000 + parts[2]
    return _valid_date(year, parts[1], parts[0]) or _valid_date(year, parts[0], parts[1])


CHECKS: dict[str, Callable[[str], bool]] = {
    check.__name__: check
    for check in (
        aba, au_abn, au_acn, au_medicare, au_tfn, be_nrn, bitcoin, br_cpf, card, ch_ahv, day, dea,
        de_tax, es_nif, fi_hetu, fr_insee, iban, ip, it_fiscal, kr_rrn, luhn, mac, nhs, nl_bsn, npi,
        phone, pl_pesel, se_personnummer, sg_nric, swift, tld, uk_nino, uk_utr, url, us_itin,
        us_ssn, verhoeff, vin,
    )
}  # fmt: skip
