# ruff: noqa: SIM905 - lists of words read better as text
"""Sentences with gaps for the entity model; every one written for this project.

Gaps: {P} whole name, {F} first name, {L} family name, {N} any form of a name, {C} town,
{K} country, {S} state, {G} any place, {O} organisation, {A} postal address. In lower case are
gaps that are no entity: {t} form of address, {j} job, {d} date, {y} year, {m} month, {w} weekday,
{n} number, {e} e-mail, {p} telephone, {r} product, {x} nationality or language, {h} code.
"""

WORK = """
{O} was sold to its rival {O}, which kept the name {O}.
The warehouse of {O} near {C} burned down on {d}.
Every {j} at {O} knows {F}.
We use software by {O} and hardware by {O}.
{N} quit {O}; {N} took over.
Students of {O} protested in {C}.
Our lawyer is {P} of {O}.
My bank is {O}, yours is {O}, right?
Ask {O} for a refund!
{O} sponsors the {x} team of {C}.
In the {y}s nobody had heard of {O} or of {P}.
{P} works as a {j} at {O}.
{N} joined {O} in {y} and now leads the office in {C}.
{O} has appointed {P} as its new {j}.
{O}, based in {C}, makes {r} for small firms.
After ten years at {O}, {N} moved to {G} to start over.
{O} will open a plant in {G} next {m}, a spokesperson said.
In {y} {O} bought {O} for {n} million dollars.
Shares of {O} fell by {n} percent after the news.
The merger of {O} and {O} was approved on {d}.
{O} and {O} signed a contract in {C}.
Our supplier, {O}, ships from {C} every {w}.
{P}, {j} at {O}, declined to comment.
{P} ({O}) will chair the session on {w}.
I applied to {O} but {N} from human resources never answered.
Founded in {C} in {y}, {O} employs {n} people.
The lawsuit against {O} was filed by {P} in {S}.
{L} told reporters that {O} would not leave {K}.
{F} left {O} to become a {j} for {P}.
Is {O} still hiring? My friend {F} needs a job.
She studied at {O} and later taught in {G}.
The board of {O} met in {C} on {d}.
Please send the invoice to {O}, attention of {P}.
The CEO of {O}, {P}, earns {n} times more than a {j}.
{O} announced the {r} yesterday.
I bought my {r} at {O} in {C}.
Our customers include {O}, {O} and {O}.
I used to work for {O}, then for {O}.
Partner: {O}
Employer: {O}
Company name: {O}
Vendor {O} failed the audit on {d}.
{O} reported record profits.
{O}'s new {r} is terrible.
according to {O}, prices in {K} will rise
"""

LIFE = """
Old {t} {L} sold us his farm outside {C}.
{F} and I have been friends since school in {C}.
Is {F} your brother or {F}'s?
That photo shows {N} with {N}, taken in {G}.
Grandpa {F} emigrated from {G} to {G} in {y}.
The keys are with {F} next door.
Our house stands at {A}. You cannot miss it.
Take a cab to {A}; I will wait outside.
Mail goes to {A}, not to {C}.
Since {m} our office has been at {A}
Rent for {A} is due on the {n}th.
Visit {F} in {C}, she would love to see {N}.
Please book a room in {G} for {t} {P}.
call {F} or {F} re: keys
My name is {P}.
My name is {P} and I live in {C}.
Hi, I am {F} from {C}.
Hello, this is {P}, how can I help you?
I'm {N}, a {j} from {G}.
{N} was born in {C} on {d}.
{t} {L} will see you now.
{t} {P} teaches {x} at {O}.
{N} and {N} got married in {G} last {m}.
{F} moved from {C} to {C} with her sister {F}.
You should call {N}, he knows everything about {r}.
Have you met {N}? She is the new {j}.
{F}, {F} and {F} are coming over on {w}.
Tell {F} I said hi.
Appointment with {t} {L} on {d}.
Remind me to pick up {F} at the airport in {C}.
Where does {N} live? I think in {G}.
{N} lives at {A}.
I live at {A}.
My address is {A}
Please send it to {A}.
We meet at {A}, next to the bakery.
Deliver the parcel to {P}, {A}.
Ship to:
{P}
{A}
Please update my billing address from {A} to {A}.
I have moved to {A}, so please change my records.
The party is at {A}, bring {F}!
There is a nice {x} place in {C}, shall we go?
We flew from {C} to {C} via {C}.
How far is it from {C} to {C}?
What's the weather like in {G}?
I have always wanted to see {G}.
The best {x} food I ever had was in {G}.
I spent my holidays in {G} and {G}.
The road between {C} and {C} is closed.
{K} and {K} are neighbours.
Thousands left {K} during the war.
Elections in {K} are held every {n} years.
The capital of {K} is {C}.
I grew up in {S}, but I studied in {G}.
Greetings from {G}!
{C}, {K}
{C}, {S}
City: {C}
Country: {K}
Address: {A}
Name: {P}
Full name: {P}
First name: {F}
Last name: {L}
Contact: {P}, {p}
Emergency contact: {P} ({p})
Place of birth: {C}
Signed, {P}
Best regards,
{P}
Thanks, {F}
Dear {F},
Dear {t} {L},
Hi {F},
Yours sincerely,
{P}
{O}
"""

NEWS = """
The play by {P} opens in {C} with {L} in the leading role.
{t} {P} is accused of stealing {n} paintings from {O}.
"Nonsense," {L} replied.
"Without {F} we would be lost," {N} told {O}.
{L}, who coached {O} until {y}, died in {C}.
{P} plays the {j} in the new series by {P}.
Fans of {P} waited outside {O} for {n} hours.
It was {L} who introduced {L} to {L}.
Rebels from {G} took {G} on {d}.
{O} toured {K}, {K} and {K}.
{P} sings, {P} plays the drums.
{C} - The mayor, {P}, resigned on {w}.
{P} was arrested in {C} on {d}, police said.
"{F} has always been honest," says {L}.
The novel by {P} was published in {y}.
{P}'s new album was recorded in {C}.
{L} beat {L} in the final in {C}.
{O} beat {O} {n} to {n}.
{P} scored twice for {O} against {O}.
A storm hit {G} and {G} on {w}.
An earthquake shook {G} in the early hours.
President {L} met Prime Minister {L} in {C}.
Judge {L} ruled that {O} must pay.
Senator {P} of {S} voted against it.
Professor {L} of {O} found a new method.
{O} said in a statement that {P} had left.
The {x} government blamed {O} for the leak.
Police in {C} are looking for {P}, {n}.
The trial of {P} begins in {C} next {m}.
{P} ({y}-{y}) was a {x} {j} from {C}.
{P} was a {x} {j}, known for a study of {r}.
The river flows from {G} into {G}.
The {n} km race starts in {C} and ends in {C}.
Flights to {C} and {C} were cancelled.
{O} was named after its founder, {P}.
Troops from {K} crossed into {K}.
{K}'s economy grew by {n} percent.
The {O} concert in {C} is sold out!
RT @user: {P} is live in {C} tonight http
omg {P} just followed me
just saw {P} at {G} lol
so proud of {F} today!!
can't wait for {O} in {C} this {w}
going to {C} with {F} and {F} tomorrow
@user have you seen {P} in {r}?
{F} is so annoying smh
Watching {O} vs {O} with {F}
goodnight {G}
"""

SERVICE = """
{F}> are you there? {F}> yes {F}, typing
{F}: did you call {O}?
{F}: no, {N} did.
Interviewer: Where were you? {L}: In {C}.
Have {N} call me at {p} tomorrow.
Please check on {P} again in {n} days.
Reminder: {N}, {d}, room {n}
Beneficiary {P}, bank {O}, {C}
Shipping address: {A}
Pick-up at {A} by {N}.
Customer {P} called from {p} about order {h}.
Ticket {h}: {P} cannot log in.
Caller: "My name is {P}, my number is {p}."
{F}: hey {F}, are you at {O}?
Agent: Thank you, {t} {L}. Do you still live in {C}?
Please cancel the card of {P}, {h}.
I want to change the name on my account from {P} to {P}.
The account holder is {P}, born on {d} in {C}.
You can reach {P} at {e} or {p}.
Email {F} at {e}.
Send the report to {P} <{e}>.
From: {P} <{e}>
To: {P}
Cc: {P}; {P}
Patient: {P}, DOB {d}
Patient {P} was admitted to {O} on {d}.
{t} {L} prescribed {r} to {P}.
The patient, {t} {L}, comes from {G} and has no allergies.
Passenger {P}, flight {h} from {C} to {C}.
Tenant: {P}, {A}
Insured person: {P}; insurer: {O}
Transfer {n} euros to {P}, account {h}.
My card was stolen in {C}, my name is {P}.
The payment to {O} was declined.
Wire it to {O}, {A}.
Please forward this to {N} and {N}.
{N} asked whether {O} delivers to {G}.
{N} reviewed the code of {N}.
Assigned to {P} on {d}
| {P} | {C} | {n} |
{P};{C};{K};{e}
{{"name": "{P}", "city": "{C}", "country": "{K}"}}
name={P}&city={C}
id,name,company
{n},{P},{O}
1. {P}
2. {P}
3. {P}
- {P}, {O}
- {P} ({C})
Attendees: {P}, {P}, {P}
Witness: {P}
Owner: {O}, {C}
Did {N} pay the rent for {A}?
I sat between {N} and {N} on the train to {C}.
We hired {N} because {N} knows {r}.
Who is {P}?
Where is {G}?
What does {O} do?
Write a biography of {P}.
Write a letter to {O} about the delay.
Plan a trip to {G} for {n} days.
Translate: "{F} lives in {G}."
Tell me a story about {F} and the dragon of {G}.
Compare {O} with {O}.
"""

NOTHING = """
How do I kill a process that uses port {n}?
The {x} translation of the {r} manual is late.
We meet on {w} at {n} o'clock.
Invoice {h} is due on {d}.
Please restart the server and clear the cache.
I am a {j} and I love my job.
The {j} spoke {x} with the guests.
He is a {x} citizen and she is {x}.
My {r} is broken again.
You can call {p} until {w}.
Write to {e} for details.
The SSN is {h} and the PIN is {n}.
It was a cold {w} in {m}.
Happy Birthday! Merry Christmas! Good Morning!
The API returns JSON or XML over HTTPS.
TODO: fix the CSS of the login page ASAP
I HATE THIS WEATHER SO MUCH
Our CEO, CFO and HR people agree.
What Is The Best Way To Learn {x}?
Monday, Tuesday and Friday are fine.
Summer is over and Spring is far away.
Attach the PDF to the ticket {h}.
The Head of Marketing and the {j} disagreed.
Order number {h} was shipped on {d}.
Version {n}.{n} of the {r} was released in {m} {y}.
Can you recommend a {x} restaurant?
The patient takes {n} mg of {r} daily.
Chapter {n}: Introduction
Total: {n} USD
Terms and Conditions apply.
Dear Sir or Madam,
Dear customer,
Hello everyone,
Hi team,
Kind regards
Mom and Dad are proud of me.
My grandmother hid a rose in the apple tree.
I will mark the date; it may rain.
Will you hope for a better deal?
There is a crack in the china and turkey on the plate.
The chase was on and the target moved north.
God knows what the Internet will say.
The Moon orbits the Earth.
Professor, may I ask a question?
The Doctor will see the next patient now.
Senior {j} wanted
Subject: Meeting on {d}
Re: Your order {h}
PIN: {n}
Date of birth: {d}
Phone: {p}
Email: {e}
Job title: {j}
Language: {x}
Nationality: {x}
User id {h}, session {h}
git commit {h} fixes issue {n}
import numpy as np; print(np.zeros({n}))
SELECT name, city FROM users WHERE id = {n};
The {r} costs {n} dollars.
The {x} and the {x} teams play on {w}.
Bitcoin and Ethereum fell again.
Christians, Muslims and Jews prayed together.
Women deserve the same rights as everybody.
The Second World War ended in 1945.
I read the Bible and the Constitution.
New Year is on a {w}.
Ask the {j}, please.
IMPORTANT: READ THIS FIRST
Yes, I Do. No, You Don't.
"""

TITLES = "Mr. Mrs. Ms. Miss Dr. Mr Mrs Ms Dr Prof. Sir Madam Rev. Captain".split()
PRODUCTS = (
    "iPhone,Galaxy S9,PlayStation,Xbox,Windows 11,Android,Kindle,Photoshop,Excel,Minecraft,Frozen,"
    "Titanic,The Matrix,Star Wars,Game of Thrones,Breaking Bad,The Hobbit,Aspirin,Ibuprofen,"
    "Model 3,Corolla,MacBook Pro,ThinkPad,Gmail,Word,Outlook,Fortnite,Monopoly,Barbie,Python,Java,"
    "Kubernetes,Linux,vacuum cleaner,coffee machine,laptop,headphones,water filter,bicycle,printer,"
    "database,microprocessor,software,insurance,website,app,game,machine learning,quantum physics"
).split(",")
NATIONS = (
    "French,German,English,Spanish,Italian,Greek,Turkish,Russian,Chinese,Japanese,Korean,Thai,"
    "Vietnamese,Indian,Pakistani,Brazilian,Mexican,American,British,Scottish,Irish,Swedish,Danish,"
    "Norwegian,Finnish,Polish,Czech,Hungarian,Arabic,Hebrew,Portuguese,Dutch,Nigerian,Egyptian"
).split(",")
MONTHS = (
    "January February March April May June July August September October November December".split()
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
OPENERS = (
    "By the way, ",
    "I heard that ",
    "Yesterday: ",
    "FYI, ",
    "Well, ",
    "Note: ",
    "According to the report, ",
    "Sorry, ",
    "Thanks! ",
    "So ",
    "* ",
    "> ",
)
CLOSERS = (
    " What do you think?",
    " Please confirm.",
    " See you on Monday.",
    " I hope this helps.",
    " That is all I know.",
    " :)",
    " #news",
    " lol",
    " Call me back when you can.",
    " It was a long day.",
    " The rest is history.",
)
