# ruff: noqa: SIM905 - lists of words read better as text
"""Names of people, places and organisations, made up here: Faker's lists, own lists, look-alikes.

Look-alikes come from a character model over the lists, so that the model has to learn what a name
looks like and where it stands, not which names there are.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

_PEOPLE = (
    "en_US en_US en_US en_US en_US en_US en_GB en_GB en_GB en_CA en_IN en_AU de_DE fr_FR it_IT "
    "es_ES es_MX pt_BR pl_PL cs_CZ sk_SK hu_HU "
    "nl_NL sv_SE no_NO da_DK fi_FI ro_RO hr_HR sl_SI tr_TR id_ID lt_LT et_EE is_IS ga_IE zu_ZA "
    "yo_NG ha_NG ig_NG sw tw_GH az_AZ"
).split()
# Locales whose towns are a list of real ones.
_TOWNS = (
    "en_IN de_DE de_AT de_CH it_IT es_ES pt_PT pl_PL cs_CZ sk_SK hu_HU nl_NL nl_BE sv_SE da_DK "
    "fi_FI ro_RO hr_HR sl_SI id_ID zu_ZA fil_PH en_US en_GB en_AU pt_BR"
).split()
_STREETS = "en_US en_US en_GB en_GB en_AU en_CA de_DE fr_FR it_IT es_ES nl_NL sv_SE pl_PL".split()

_WORLD_TOWNS = (
    "London,Paris,Berlin,Madrid,Rome,Vienna,Prague,Warsaw,Dublin,Lisbon,Oslo,Helsinki,Copenhagen,"
    "Athens,Moscow,Kyiv,Istanbul,Ankara,Cairo,Lagos,Nairobi,Accra,Dakar,Tunis,Casablanca,Tehran,"
    "Baghdad,Riyadh,Dubai,Doha,Mumbai,Delhi,Kolkata,Dhaka,Karachi,Lahore,Kathmandu,Colombo,Bangkok,"
    "Hanoi,Manila,Jakarta,Singapore,Kuala Lumpur,Hong Kong,Taipei,Seoul,Busan,Tokyo,Osaka,Kyoto,"
    "Beijing,Shanghai,Shenzhen,Sydney,Melbourne,Perth,Auckland,Wellington,Toronto,Montreal,"
    "Vancouver,Ottawa,New York,New York City,NYC,Los Angeles,LA,Chicago,Houston,Phoenix,"
    "Philadelphia,San Antonio,San Diego,Dallas,Austin,San Jose,Jacksonville,Columbus,Charlotte,"
    "San Francisco,Seattle,Denver,Washington,Washington DC,D.C.,Boston,Nashville,Detroit,Portland,"
    "Las Vegas,Memphis,Baltimore,Milwaukee,Albuquerque,Tucson,Fresno,Sacramento,Atlanta,Miami,"
    "Orlando,Tampa,Cleveland,New Orleans,Minneapolis,St. Louis,Pittsburgh,Cincinnati,Honolulu,"
    "Brooklyn,Manhattan,Queens,Harlem,Soho,Mexico City,Guadalajara,Havana,Bogota,Lima,Quito,"
    "Santiago,Buenos Aires,Montevideo,Sao Paulo,Rio de Janeiro,Rio,Caracas,Manchester,Liverpool,"
    "Leeds,Glasgow,Edinburgh,Cardiff,Belfast,Bristol,Birmingham,Oxford,Cambridge,Nottingham,"
    "Munich,Hamburg,Frankfurt,Cologne,Lyon,Marseille,Nice,Bordeaux,Milan,Turin,Naples,Venice,"
    "Florence,Barcelona,Valencia,Seville,Porto,Geneva,Zurich,Basel,Brussels,Antwerp,Amsterdam,"
    "Rotterdam,Stockholm,Gothenburg,Budapest,Bucharest,Sofia,Belgrade,Zagreb,Jerusalem,Tel Aviv"
).split(",")
_COUNTRIES = (
    "USA,US,U.S.,United States,the United States,America,UK,United Kingdom,England,Scotland,Wales,"
    "Ireland,Germany,France,Italy,Spain,Portugal,Poland,Sweden,Norway,Finland,Denmark,Austria,"
    "Switzerland,Belgium,Holland,the Netherlands,Greece,Turkey,Russia,Ukraine,China,Japan,Korea,"
    "South Korea,North Korea,India,Pakistan,Bangladesh,Vietnam,Thailand,Indonesia,Malaysia,"
    "Philippines,Australia,New Zealand,Canada,Mexico,Brazil,Argentina,Chile,Peru,Colombia,"
    "Venezuela,Cuba,Jamaica,Haiti,Egypt,Nigeria,Kenya,Ghana,Ethiopia,South Africa,Morocco,Algeria,"
    "Israel,Palestine,Lebanon,Syria,Iraq,Iran,Saudi Arabia,Qatar,UAE,Yemen,Afghanistan,Europe,"
    "Asia,Africa,Latin America,the Middle East,Scandinavia,the Balkans,the EU"
).split(",")
_STATES = (
    "Alabama,Alaska,Arizona,Arkansas,California,Colorado,Connecticut,Delaware,Florida,Georgia,"
    "Hawaii,Idaho,Illinois,Indiana,Iowa,Kansas,Kentucky,Louisiana,Maine,Maryland,Massachusetts,"
    "Michigan,Minnesota,Mississippi,Missouri,Montana,Nebraska,Nevada,New Hampshire,New Jersey,"
    "New Mexico,North Carolina,North Dakota,Ohio,Oklahoma,Oregon,Pennsylvania,Rhode Island,"
    "South Carolina,South Dakota,Tennessee,Texas,Utah,Vermont,Virginia,West Virginia,Wisconsin,"
    "Wyoming,Ontario,Quebec,Alberta,British Columbia,Bavaria,Saxony,Tuscany,Sicily,Lombardy,"
    "Catalonia,Andalusia,Provence,Brittany,Normandy,Cornwall,Devon,Yorkshire,Kent,Queensland,"
    "New South Wales,Victoria,Punjab,Kerala,Gujarat,Hokkaido,Siberia,Crimea,Kashmir"
).split(",")
_CODES = "AL AK AZ CA CO CT FL GA IL IN KS KY LA MA MD MI MN MO NC NJ NV NY OH OK OR PA TX UT VA WA"
_NATURE = (
    "Mount {t}",
    "Lake {t}",
    "{t} River",
    "River {t}",
    "the {t} Valley",
    "{t} Beach",
    "{t} Bay",
    "{t} Island",
    "{t} Hills",
    "{t} County",
    "{t} Park",
    "{t} National Park",
    "{t} Airport",
    "{t} Station",
    "{t} Square",
    "{t} Bridge",
    "{t} Castle",
    "Port {t}",
    "Fort {t}",
    "San {t}",
    "Saint {t}",
    "North {t}",
    "South {t}",
    "East {t}",
    "New {t}",
    "{t} Heights",
    "{t} Street",
    "{t} Road",
    "{t} Avenue",
    "Cape {t}",
)
_KNOWN_ORGANISATIONS = (
    "Google,Microsoft,Apple,Amazon,Facebook,Twitter,Netflix,Intel,IBM,Oracle,Samsung,Sony,Nokia,"
    "Siemens,Bosch,Volkswagen,BMW,Toyota,Honda,Ford,General Motors,Tesla,Boeing,Airbus,Lufthansa,"
    "British Airways,Ryanair,Delta,United Airlines,Walmart,Target,Costco,IKEA,Tesco,Aldi,Starbucks,"
    "McDonald's,Burger King,KFC,Coca-Cola,Pepsi,Nestle,Unilever,Pfizer,Moderna,AstraZeneca,Bayer,"
    "Novartis,Goldman Sachs,JPMorgan,Citibank,Bank of America,Wells Fargo,HSBC,Barclays,Deutsche "
    "Bank,Visa,Mastercard,PayPal,Uber,Airbnb,Spotify,Reuters,BBC,CNN,Fox News,The New York Times,"
    "The Guardian,Washington Post,Al Jazeera,NASA,FBI,CIA,NSA,NHS,FDA,EPA,UN,United Nations,UNICEF,"
    "WHO,World Bank,IMF,European Union,EU,European Commission,NATO,FIFA,UEFA,NBA,NFL,Red Cross,"
    "Greenpeace,Amnesty International,Harvard,Harvard University,Stanford,MIT,Oxford University,"
    "Yale,Princeton,Congress,Senate,Parliament,Supreme Court,Pentagon,White House,Labour Party,"
    "Republican Party,Democrats,Manchester United,Real Madrid,Bayern Munich,Arsenal,Chelsea,"
    "Liverpool FC,Lakers,Yankees,Red Sox,Patriots,Cowboys,The Beatles,Rolling Stones,Coldplay,"
    "Metallica,Nirvana,One Direction,FedEx,UPS,DHL,AT&T,Verizon,Vodafone,T-Mobile,Adobe,Cisco,Dell,"
    "HP,Nvidia,AMD,SpaceX,LinkedIn,YouTube,Instagram,Reddit,Wikipedia,Mozilla,Red Hat,SAP,"
    "Accenture,"
    "Deloitte,KPMG,McKinsey,Nike,Adidas,Zara,H&M,Disney,Pixar,Warner Bros.,Universal Studios"
).split(",")
_BRAND_START = (
    "Bright Blue Cloud Data Deep Ever Fast Fin Flex Green Hyper Inter Kind Lend Light Liquid Meta "
    "Mind Net Neo North Open Pay Pixel Prime Pure Quick Red Rocket Simple Sky Smart Snap Solar "
    "Spark Star Swift Tele Terra True Ultra Uni Vita Wave Wind Zen Zip Bill Book Care Code Craft "
    "Farm Food Health Home Job Loan Map Mail Med Print Ship Shop Track Travel Trip Tutor"
).split()
_BRAND_END = (
    "ly ify io ware works box hub lab labs list guard base bit mind logic soft net nest path point "
    "scape shift sense smith space stack stream wise yard zilla era ium ora ex on ix tuition bank "
    "cart chain desk forge gen grid kit loop match pad port spot tap vault view"
).split()
_BRAND_LAST = (
    "Robotics,Systems,Labs,Technologies,Software,Analytics,Health,Energy,Foods,Motors,Media,Games,"
    "Studios,Capital,Partners,Holdings,Group,Solutions,Networks,Pharma,Therapeutics,Logistics,"
    "Airlines,Bank,Insurance,Consulting,Industries,Semiconductors,Security,Records,Pictures,"
    "Foundation"
).split(",")
_LEGAL = (
    "Inc.,Inc,Ltd.,Ltd,LLC,PLC,plc,Corp.,Corporation,Co.,& Co.,GmbH,AG,S.A.,SA,BV,Oy,AB,S.p.A.,"
    "& Sons,Brothers,Group,Limited"
).split(",")
_INSTITUTIONS = (
    "University of {t}",
    "{t} University",
    "{t} State University",
    "{t} College",
    "{t} High School",
    "{t} General Hospital",
    "{t} Medical Center",
    "St. {f} Hospital",
    "{t} Institute of Technology",
    "{l} Institute",
    "{l} Foundation",
    "Bank of {t}",
    "{t} City Council",
    "{t} Police Department",
    "{t} Symphony Orchestra",
    "{t} United",
    "FC {t}",
    "{t} Tigers",
    "{t} Chamber of Commerce",
    "{t} Museum of Art",
    "Ministry of Health",
    "Department of Energy",
    "Department of Justice",
    "{t} Times",
    "{t} Herald",
    "{l}, {l2} & {l3}",
    "{l} & {l2}",
    "{l} & Associates",
    "{l} Law Firm",
    "{l} Dental",
    "Church of {t}",
    "{t} Airlines",
    "{t} Water Authority",
)


class Lookalikes:
    """A character model of order three over a list of names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._next: dict[str, list[str]] = defaultdict(list)
        for name in names:
            padded = f"^^^{name}$"
            for at in range(3, len(padded)):
                self._next[padded[at - 3 : at]].append(padded[at])

    def make(self, rng: random.Random) -> str:
        """Make one of 4 to 14 characters."""
        while True:
            found = "^^^"
            while not found.endswith("$") and len(found) < 24:
                found += rng.choice(self._next[found[-3:]])
            name = found[3:].removesuffix("$").strip()
            if 4 <= len(name) <= 14:
                return name


@dataclass
class Names:
    """Pools of names, and the ways in which they are written."""

    rng: random.Random
    firsts: list[str]
    lasts: list[str]
    wholes: list[str]
    towns: list[str]
    countries: list[str]
    companies: list[str]
    addresses: list[str]
    jobs: list[str]

    def __post_init__(self) -> None:
        self._like_last = Lookalikes([name for name in self.lasts if name.isalpha()])
        self._like_first = Lookalikes([name for name in self.firsts if name.isalpha()])
        self._like_town = Lookalikes(self.towns)

    def first(self) -> str:
        """Make a first name."""
        if self.rng.random() < 0.12:
            return self._like_first.make(self.rng)
        return self.rng.choice(self.firsts)

    def last(self) -> str:
        """Make a family name."""
        pick = self.rng.random()
        if pick < 0.2:
            return self._like_last.make(self.rng)
        if pick < 0.25:
            return f"{self.rng.choice(self.lasts)}-{self.rng.choice(self.lasts)}"
        if pick < 0.3:
            particle = self.rng.choice(("van der", "de la", "von", "Al", "O'", "Mc", "Di", "bin"))
            blank = "" if particle in {"O'", "Mc"} else " "
            return f"{particle}{blank}{self.rng.choice(self.lasts)}"
        return self.rng.choice(self.lasts)

    def person(self) -> str:
        """Make a whole name in one of its forms."""
        rng, pick = self.rng, self.rng.random()
        first, last, initial = self.first(), self.last(), self.rng.choice("ABCDEFGHJKLMNPRSTW")
        if pick < 0.22:
            return rng.choice(self.wholes)
        if pick < 0.30:
            return f"{first} {initial}. {last}"
        if pick < 0.34:
            return f"{first[0]}. {last}"
        if pick < 0.37:
            return f"{last}, {first}"
        if pick < 0.40:
            return f"{first} {self.first()} {last}"
        if pick < 0.42:
            return f"{first[0]}.{initial}. {last}"
        return f"{first} {last}"

    def town(self) -> str:
        """Make a town."""
        pick = self.rng.random()
        if pick < 0.35:
            return self.rng.choice(_WORLD_TOWNS)
        if pick < 0.5:
            return self._like_town.make(self.rng)
        return self.rng.choice(self.towns)

    def country(self) -> str:
        """Make a country or a part of the world."""
        return self.rng.choice(_COUNTRIES if self.rng.random() < 0.6 else self.countries)

    def state(self) -> str:
        """Make a state or a province."""
        return self.rng.choice(_STATES)

    def code(self) -> str:
        """Make a state's two letters."""
        return self.rng.choice(_CODES.split())

    def place(self) -> str:
        """Make any place: town, country, state, or something with a name in the landscape."""
        pick = self.rng.random()
        if pick < 0.45:
            return self.town()
        if pick < 0.62:
            return self.country()
        if pick < 0.74:
            return self.state()
        if pick < 0.8:
            return f"{self.town()}, {self.rng.choice((self.state, self.country, self.code))()}"
        base = self.rng.choice((self.town, self.last, self.first))()
        return self.rng.choice(_NATURE).format(t=base)

    def brand(self) -> str:
        """Make a brand that exists nowhere."""
        rng = self.rng
        start, end = rng.choice(_BRAND_START), rng.choice(_BRAND_END)
        form = rng.random()
        if form < 0.45:
            return start + end
        if form < 0.55:
            return start + end.capitalize()
        if form < 0.7:
            return f"{start} {rng.choice(_BRAND_LAST)}"
        if form < 0.85:
            return f"{self._like_town.make(rng)} {rng.choice(_BRAND_LAST)}"
        return f"{start}{end} {rng.choice(_BRAND_LAST + _LEGAL)}"

    def organisation(self) -> str:
        """Make a company, an institution, a club or a band."""
        rng, pick = self.rng, self.rng.random()
        if pick < 0.2:
            return rng.choice(_KNOWN_ORGANISATIONS)
        if pick < 0.45:
            return self.brand()
        if pick < 0.6:
            return rng.choice(self.companies)
        if pick < 0.72:
            return f"{self.last()} {rng.choice(_LEGAL)}"
        if pick < 0.8:
            letters = "".join(rng.choice("ABCDEFGHIKLMNOPRSTUW") for _ in range(rng.randint(2, 4)))
            return letters if rng.random() < 0.7 else f"{letters} {rng.choice(_LEGAL)}"
        return rng.choice(_INSTITUTIONS).format(
            t=self.town(), f=self.first(), l=self.last(), l2=self.last(), l3=self.last()
        )

    def address(self) -> str:
        """Make a postal address on one or several lines."""
        rng = self.rng
        street = rng.choice(self.addresses)
        pick = rng.random()
        if pick < 0.45:
            return street
        if pick < 0.6:
            return street.split("\n")[0].rstrip(" ,")
        apartment = rng.choice(("Apt. {}", "Suite {}", "Unit {}", "Flat {}", "#{}")).format(
            rng.randint(1, 999)
        )
        parts = [street.split("\n")[0].rstrip(" ,")]
        if rng.random() < 0.4:
            parts.append(apartment)
        parts.append(self.town())
        if rng.random() < 0.4:
            parts.append(rng.choice((self.state, self.code))())
        if rng.random() < 0.5:
            parts[-1] += f" {rng.randint(1000, 99999)}"
        if rng.random() < 0.4:
            parts.append(self.country())
        joint = rng.choice((", ", ", ", "\n", "\n ", " "))
        return joint.join(parts)


def load_names(seed: int, size: int = 6_000) -> Names:
    """Build the pools with Faker; the same seed gives the same pools."""
    from faker import Faker

    rng = random.Random(seed)
    makers = {locale: Faker(locale) for locale in {*_PEOPLE, *_TOWNS, *_STREETS}}
    for number, locale in enumerate(sorted(makers)):
        makers[locale].seed_instance(seed + number)

    def gather(locales: Sequence[str], method: str, count: int) -> list[str]:
        return [str(getattr(makers[rng.choice(locales)], method)()) for _ in range(count)]

    addresses = gather(_STREETS, "address", size // 3)
    addresses += gather(_STREETS, "street_address", size // 3)
    return Names(
        rng,
        firsts=gather(_PEOPLE, "first_name", size),
        lasts=gather(_PEOPLE, "last_name", size),
        wholes=[name for name in gather(_PEOPLE, "name", size) if "." not in name],
        towns=gather(_TOWNS, "city", size),
        countries=gather(["en_US", "en_GB"], "country", 400),
        companies=gather(["en_US", "en_US", "de_DE", "fr_FR", "it_IT"], "company", size // 2),
        addresses=addresses,
        jobs=gather(["en_US", "en_GB"], "job", 800),
    )
