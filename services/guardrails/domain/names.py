"""Lists that checks look things up in: IBAN lengths, countries, top-level domains.

Sources: SWIFT IBAN registry (lengths), ISO 3166-1 (countries), IANA root zone (the country codes
and the generic domains in common use; a host under a rarer one needs its scheme to be a URL).
"""

_IBAN_LENGTHS = """
AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21 CR:22 CY:28
CZ:24 DE:22 DJ:27 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18 FR:27 GB:22 GE:22 GI:23
GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32
LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 MN:20 MR:27 MT:31 MU:30 NI:28 NL:18
NO:15 OM:23 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 RU:33 SA:24 SC:31 SD:18 SE:24 SI:19
SK:24 SM:27 SO:23 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20 YE:30
"""
_COUNTRIES = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR
BS BT BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC
EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GT GU GW GY HK
HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB
LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY
MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO
RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TG TH TJ TK TL
TM TN TO TR TT TV TW TZ UA UG US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW
"""
_GENERIC_DOMAINS = """
com org net edu gov mil int info biz name pro aero coop museum mobi jobs travel tel cat asia
post xxx app dev page cloud online site website store shop tech blog news live life world
email agency digital design studio media group company solutions services systems network
zone center academy school university college health care clinic bank finance money capital
fund insurance law legal tax consulting energy engineering industries house homes estate
land city town london berlin paris nyc tokyo top xyz club vip win icu wiki space fun link
click today guru ninja rocks plus team works tools run host hosting games game video music
film photo photos art gallery fashion style beauty fit yoga bio eco green farm garden pet
cafe bar pub restaurant pizza beer wine coffee hotel tours flights cars auto bike taxi
google amazon apple microsoft example test invalid localhost local internal arpa onion
"""
_FURTHER_NATIONAL_DOMAINS = "uk eu ac su tp"

IBAN_LENGTHS: dict[str, int] = {item[:2]: int(item[3:]) for item in _IBAN_LENGTHS.split()}
COUNTRIES: frozenset[str] = frozenset(_COUNTRIES.split())
TOP_LEVEL_DOMAINS: frozenset[str] = frozenset(
    [
        *_GENERIC_DOMAINS.split(),
        *_FURTHER_NATIONAL_DOMAINS.split(),
        *(country.lower() for country in COUNTRIES),
    ]
)
