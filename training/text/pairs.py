"""Statements and what is done with them: the same words meant, denied, quoted, or aimed at things.

Every row is a statement (whom it is about, and what is said) inside a frame. A frame that means the
statement keeps its label, one that denies, quotes or condemns it makes it harmless. Rows of one
predicate stay on one side of every split, so that held-out rows speak of what was never trained on.
All sentences were written for this project.
"""

import random

from training.text.contrast import GROUPS, ROLES, THINGS, _fill, _spell
from training.text.sources import Row

# What is said of a group in hatred; "{p}" of the frames is the group with one of these.
_AGAINST = (
    "are disgusting",
    "are vermin",
    "are a cancer to this society",
    "are subhuman garbage",
    "are nothing but animals",
    "are all thieves",
    "are all rapists and killers",
    "are too stupid to learn anything",
    "are dirty and smell",
    "are inferior to the rest of us",
    "are mentally sick",
    "are an embarrassment to mankind",
    "are parasites",
    "are evil by nature",
    "are a waste of oxygen",
    "are cowards and liars",
    "are freaks",
    "are not real humans",
    "are only good for cleaning our floors",
    "are the reason for every crime in this town",
    "can't be trusted with anything",
    "cannot think for themselves",
    "do not belong here",
    "don't deserve to be treated as equals",
    "don't deserve to live",
    "don't deserve respect",
    "have no place in our schools",
    "have ruined this neighbourhood",
    "have the brains of a goat",
    "make me want to vomit",
    "make my skin crawl",
    "must be driven out",
    "must never be allowed to marry",
    "need a good beating",
    "need to be put down like dogs",
    "ought to be locked away",
    "ought to be sterilised",
    "should all be deported tomorrow",
    "should all be shot",
    "should be banned from public places",
    "should be burned alive",
    "should be kept out of our restaurants",
    "should be slaves again",
    "should crawl back to their holes",
    "should hang",
    "should have no right to vote",
    "should know their place",
    "should not be allowed to have children",
    "should rot in hell",
    "spread disease wherever they go",
    "steal everything that is not nailed down",
    "will always be beneath me",
    "will be exterminated one day and I will cheer",
    "breed like rats",
    "contribute nothing and take everything",
    "deserve every punch they get",
    "deserve to be raped",
    "disgust me more than cockroaches",
    "poison our culture",
    "want to destroy our country",
)
# What is said of a group without hatred.
_HARMLESS = (
    "are wonderful neighbours",
    "are often misrepresented in films",
    "are protected by the new law",
    "are welcome in our club",
    "deserve respect like everybody else",
    "deserve to feel safe on the bus",
    "do so much for this city",
    "face discrimination at work",
    "fought hard for the right to vote",
    "have founded a choir in our street",
    "have been insulted on this forum far too often",
    "have the same dreams as all of us",
    "inspire me every day",
    "make up a third of our team",
    "make amazing food at the street fair",
    "read the same newspapers as I do",
    "run half of the shops in my street",
    "should be heard in this debate",
    "should not have to hide",
    "should get equal pay",
    "teach at our school",
    "were murdered in that war and we must remember them",
    "were shot at last night; the town is in shock",
    "were the victims of a hateful attack",
    "were banned from the hotel, which is a scandal",
    "will march through the town on Sunday",
    "won three medals at the games",
    "work as nurses, drivers and judges",
    "write some of the best novels I know",
    "can be proud of what they achieved",
    "celebrate a big holiday next week",
    "complain about the new rules for visas",
    "differ in many ways from one another",
    "do not all think alike",
    "drink less tea than people believe",
    "don't need your pity",
    "get stopped by the police more often",
    "are underpaid in this industry",
    "are my closest friends",
    "are not a threat to anybody",
)
# Frames in which a statement is meant. {P} begins a sentence, {p} stands inside one.
_MEANT = (
    "{P}.",
    "{P}!",
    "{P}!!!",
    "I think {p}.",
    "Honestly, {p}.",
    "If you ask me, {p}.",
    "Everybody knows that {p}.",
    "Let's face it, {p}.",
    "{P}, and I am not sorry for saying it.",
    "It's a fact that {p}.",
    "Do you not agree that {p}?",
    "Is it just me, or do you also feel that {p}?",
    "My family and I believe that {p}.",
    "I have said it for years: {p}.",
    "Nobody dares to say that {p}. I do.",
    "The older I get, the more I see that {p}.",
    "Finally a politician who admits that {p}.",
    "Prove me wrong: {p}.",
    "what can i say, {p} lol",
    "{P}. That is why I moved away.",
    "Call me what you want, {p}.",
)
# Frames in which it is denied, quoted or condemned.
_TURNED = (
    "It is simply not true that {p}.",
    "Nobody here thinks that {p}.",
    "I do not believe that {p}, and neither should you.",
    "Whoever says that {p} should be ashamed.",
    "You can't just claim that {p}. That is hateful.",
    'He wrote "{p}" on the wall and was arrested for it.',
    '"{P}" is exactly the kind of sentence that gets people banned here, and rightly so.',
    'The teacher asked why someone would say "{p}", and we talked about prejudice.',
    'My colleague said "{p}". I reported her.',
    "In the thirties the papers claimed that {p}; we know where that led.",
    "Posts that claim {p} will be deleted.",
    "I used to think {p}. I was an idiot, and I am sorry.",
    "Stop telling children that {p}!",
    "The judge found that the words '{p}' are hate speech.",
    "It hurts when people shout at me that {p}.",
    "Why would anyone think that {p}? It makes me sad.",
    "Research shows how wrong it is to say that {p}.",
)
_PRONOUNS = (
    ("There are {g} in my street. I want them gone.", 1.0),
    ("There are {g} in my street. We had tea with them yesterday.", 0.0),
    ("I saw some {g} at the pool today. They should drown.", 1.0),
    ("I saw some {g} at the pool today. They taught my son to swim.", 0.0),
    ("My boss hired {s}. I will make that person's life hell until they quit.", 1.0),
    ("My boss hired {s}. We get along very well.", 0.0),
    ("You are {s}, right? I can smell that filth from here.", 1.0),
    ("You are {s}, right? May I ask how you celebrate New Year?", 0.0),
    ("If I catch {s} near my house I will break every bone in that body.", 1.0),
    ("If I meet {s} on the bus I offer my seat, as I do to everyone.", 0.0),
    ("One day we will come for {g} and nobody will protect them.", 1.0),
    ("One day {g} will not need protection any more. I look forward to it.", 0.0),
    ("{G}? Gas them.", 1.0),
    ("{G}? Ask them, not me.", 0.0),
    ("I love it when {g} suffer.", 1.0),
    ("I hate it when {g} suffer.", 0.0),
    ("I hate {g} with all my heart.", 1.0),
    ("I hate how {g} are treated.", 0.0),
    ("No {g}, no problems.", 1.0),
    ("No {g} came to the party, what a pity.", 0.0),
    ("Kick out the {g}!", 1.0),
    ("Kick off for the team of the {g}!", 0.0),
)
_EMOJI = (
    ("{G} are 🐀🐀🐀", 1.0),
    ("{G} 🤮🤮", 1.0),
    ("I want to 🔫 all {g}", 1.0),
    ("{G} belong in the 🗑️", 1.0),
    ("{G} = 🐒", 1.0),
    ("{G} should be 🔥🔥🔥 alive", 1.0),
    ("time to 🔪 some {g}", 1.0),
    ("{G} make me 🤢", 1.0),
    ("{G} are 💩", 1.0),
    ("get {g} 💀 and the world is better", 1.0),
    ("I would rather hug a 🐍 than {g}", 1.0),
    ("{G} 🥰🥰", 0.0),
    ("happy holidays to all {g} 🎉", 0.0),
    ("whoever calls {g} 🐀 gets blocked 🚫", 0.0),
    ("my 🐒 toy is from the market where {g} sell fruit 🍎", 0.0),
    ("{G} on 🔥 tonight, what a concert!", 0.0),
    ("cooking with {g}, everything 😋", 0.0),
    ("love my {g} friends ❤️", 0.0),
    ("people who want to 🔫 {g} make me 😢", 0.0),
    ("watching a film about {g} 🎬 and crying 😭", 0.0),
    ("stop the violence against {g} ✊", 0.0),
    ("I found 💩 on the pavement again", 0.0),
)
# Words of violence in harmless use: (verb phrase, what it is done to).
_HARMLESS_VERBS = {
    "kill": ("a zombie process", "the lights", "an hour at the airport", "weeds", "the engine"),
    "shoot": ("a short film", "hoops", "a wedding in black and white", "an email to my boss"),
    "execute": ("a stored procedure", "a will", "a marketing plan", "a perfect handstand"),
    "blow up": ("a balloon", "a photograph", "an air mattress", "a paddling pool"),
    "murder": ("a plate of pancakes", "a karaoke song", "the boss of level nine"),
    "destroy": ("my old documents", "an opponent at chess", "a hard drive before I sell it"),
    "burn": ("a playlist to disc", "calories quickly", "incense at home", "a DVD"),
    "hit": ("the gym", "a deadline", "a high note", "save in this program"),
    "strangle": ("the growth of a hedge", "a software monopoly"),
    "steal": ("the show at a talent contest", "a base in baseball", "second in cricket"),
    "poison": ("rats legally", "nobody's mind with gossip", "a cache in a lab exercise"),
    "attack": ("a hard exam question", "the white king", "a big pile of laundry"),
    "bomb": ("less at stand-up comedy", "a bath with salts"),
    "beat": ("egg whites", "the traffic", "my brother at Mario Kart", "jet lag"),
    "hang": ("a picture", "out with new colleagues", "wallpaper", "a door"),
    "smash": ("avocados", "an interview", "a personal record"),
    "drown": ("a cake in syrup", "the noise of the street", "a plant less often"),
    "stab": ("a potato before baking it", "at a first draft"),
    "choke": ("an inductor circuit", "less in important matches"),
    "hack": ("together a prototype", "my morning routine", "a coconut open"),
    "abuse": ("a notation less", "a spreadsheet as a database"),
    "whip": ("cream", "up a quick dinner"),
    "crush": ("garlic", "it at an interview", "aluminium cans"),
    "kidnap": ("the king in a board game", "the villain in my screenplay"),
}
_ASKED = (
    "How do I {v} {o}?",
    "What is the best way to {v} {o}?",
    "Can you help me {v} {o}?",
    "I want to {v} {o}.",
    "Tips to {v} {o}, please!",
    "Yesterday I tried to {v} {o} and failed.",
    "My friend taught me how to {v} {o}.",
)
_SAFE_QUESTIONS = (
    "Who killed Julius Caesar, and why?",
    "How did people die in the great fire of the city?",
    "What is the definition of manslaughter?",
    "Explain what a hate crime is.",
    "Why is the slave trade a crime against humanity?",
    "How many people were murdered in the massacre described in this book?",
    "Where can I get help if I feel unsafe at home?",
    "How do the police find drug dealers?",
    "In the game, how do I poison the orc chief?",
    "How does the vampire in the novel choose its victims?",
    "Should unicorns be allowed to vote?",
    "Why are triangles better than squares?",
    "Which poisonous plants should I keep away from my dog?",
    "What does the word 'bitch' mean among dog breeders?",
    "What does the law say about self-defence?",
    "Why do people bully others?",
    "How is a safe cracked in old films?",
    "How do vaccines kill viruses?",
    "What made the bomb in the museum harmless?",
    "Is it dangerous to mix vinegar and bleach?",
    "My character robs a train. How would he plan it?",
    "What was the punishment for theft in the Middle Ages?",
    "How do hospitals treat an overdose?",
    "Why was the dictator assassinated?",
    "What are early signs of an abusive relationship?",
    "What happened in the school shooting last year, and how is the town today?",
    "How can I talk to my son about suicide prevention?",
    "Why is racism harmful to health?",
    "List films about the Holocaust.",
    "How do I report a racist joke at work?",
)


def _row(text: str, group: str, label: float, cluster: str) -> Row:
    is_women = float(group in {"women", "lesbians"} and label > 0)
    labels = {"toxic": label, "hate": label, "sexist": is_women, "injection": 0.0}
    return Row(text, "pairs", labels, cluster=f"pairs:{cluster}")


def pairs(seed: int, count: int) -> list[Row]:
    """Generate about `count` rows; a third of them hateful."""
    rng = random.Random(seed)
    rows: list[Row] = []

    def spelled(text: str, share: float) -> str:
        return _spell(text, rng) if rng.random() < share else text

    while len(rows) < count:
        group = rng.choice(GROUPS)
        pick = rng.random()
        if pick < 0.46:
            number = rng.randrange(len(_AGAINST))
            is_meant = pick < 0.26
            text = _framed(rng.choice(_MEANT if is_meant else _TURNED), group, _AGAINST[number])
            rows.append(_row(spelled(text, 0.2), group, float(is_meant), f"a{number}"))
        elif pick < 0.62:
            number = rng.randrange(len(_HARMLESS))
            frame = rng.choice(_MEANT[:18] if rng.random() < 0.8 else _TURNED[:3])
            text = _framed(frame, group, _HARMLESS[number])
            rows.append(_row(spelled(text, 0.2), group, 0.0, f"h{number}"))
        elif pick < 0.74:
            number = rng.randrange(len(_PRONOUNS))
            template, label = _PRONOUNS[number]
            # A pair shares its cluster.
            rows.append(
                _row(spelled(_fill(template, group), 0.15), group, label, f"p{number // 2}")
            )
        elif pick < 0.84:
            number = rng.randrange(len(_EMOJI))
            template, label = _EMOJI[number]
            rows.append(_row(_fill(template, group), group, label, f"e{number % 11}"))
        elif pick < 0.90:
            rows.append(_about_others(rng))
        elif pick < 0.97:
            verb = rng.choice(list(_HARMLESS_VERBS))
            template = rng.choice(_ASKED)
            text = template.format(v=verb, o=rng.choice(_HARMLESS_VERBS[verb]))
            rows.append(_row(text, "", 0.0, f"v{verb}"))
        else:
            number = rng.randrange(len(_SAFE_QUESTIONS))
            rows.append(_row(_SAFE_QUESTIONS[number], "", 0.0, f"q{number}"))
    return rows


def _framed(frame: str, group: str, predicate: str) -> str:
    statement = f"{group} {predicate}"
    return frame.format(P=statement[0].upper() + statement[1:], p=statement)


def _about_others(rng: random.Random) -> Row:
    """Say the same of things (harmless) or of people who are no protected group (never hate)."""
    number = rng.randrange(len(_AGAINST))
    frame = rng.choice(_MEANT)
    if rng.random() < 0.4:
        row = _row(_framed(frame, rng.choice(ROLES), _AGAINST[number]), "", 0.0, f"a{number}")
        del row.labels["toxic"]
        return row
    thing = rng.choice(("mosquitoes", "parking tickets", "these weeds", "clothes moths", "ads"))
    if rng.random() < 0.4:
        text = f"I absolutely hate {rng.choice(THINGS)}. It makes me want to scream."
        return _row(text, "", 0.0, "things")
    return _row(_framed(frame, thing, _AGAINST[number]), "", 0.0, f"a{number}")
