"""Sentence patterns with numbers: ages, prices, timetables, dates, durations, journeys; and the weather."""

from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.descriptions import positions
from accel_tx.data.phrasebook.english import english_number, english_time
from accel_tx.data.phrasebook.frames import FUTURE_TIMES, LAST_DAYS, NEXT_DAYS, PAST, PAST_TIMES, pairs
from accel_tx.data.phrasebook.french import french_number, french_time
from accel_tx.data.phrasebook.grammar import Clause, Nominal, NounPhrase, Pair, VerbPhrase
from accel_tx.data.phrasebook.lexicon import DETERMINERS, NOUNS, noun_list, parse_verb, parse_verbs
from accel_tx.data.phrasebook.phrases import GO, IT, PRONOUNS, Writer, join, render, say
from accel_tx.data.phrasebook.statements import sentence

CITIES = pairs("Paris = Paris; Lyon = Lyon; London = Londres; Rome = Rome; Geneva = Genève; Brussels = Bruxelles")
COUNTRIES = pairs(  # where and whither are the same in French
    "France = en France; Italy = en Italie; Spain = en Espagne; Germany = en Allemagne; England = en Angleterre; "
    "Japan = au Japon; Canada = au Canada; Portugal = au Portugal"
)
ABROAD = COUNTRIES + tuple((en, f" à{fr}") for en, fr in CITIES)
IN_PLACES = tuple((f" in{en}", fr) for en, fr in ABROAD)
MONTHS = pairs(
    "January = janvier; February = février; March = mars; April = avril; May = mai; June = juin; July = juillet; "
    "August = août; September = septembre; October = octobre; November = novembre; December = décembre"
)

# --- ages and prices --------------------------------------------------------------------------------------------------

HAVE_YEARS = parse_verb("be | avoir")
AGES = {"elder": (35, 60), "youth": (3, 15), "kin": (16, 60), "grand": (61, 99), "adult": (20, 75)}
AGE_TIMES = (
    (g.PRESENT, ("", "")),
    (g.PRESENT, ("", "")),
    (g.PRESENT, (" today", " aujourd'hui")),
    (g.FUTURE, (" next year", " l'année prochaine")),
    (g.FUTURE, (" tomorrow", " demain")),
    (g.PAST_STATE, (" last year", " l'année dernière")),
)


def kind_of(subject: Nominal) -> str:
    """The kind of the subject's noun, grandparents apart from parents; "adult" for names and pronouns."""
    if subject.head.startswith("grand"):
        return "grand"
    return NOUNS[subject.head].kind if subject.head in NOUNS else "adult"


def one_person(w: Writer) -> Nominal:
    """A single person named by a noun or name."""
    return w.pick((lambda: w.person(("the", "this")), lambda: w.relative(0), w.name))()


def age(w: Writer) -> Pair:
    """My grandfather is eighty-two years old."""
    subject = one_person(w) if w.chance(0.8) else PRONOUNS[w.pick(("I", "he", "she", "you"))]
    years = w.number(*AGES[kind_of(subject)])
    tense, when = w.pick(AGE_TIMES)
    tail = join((f" {english_number(years)} years old", f" {french_number(years)} ans"), when)
    return sentence(say(Clause(subject, VerbPhrase(HAVE_YEARS, tail), tense)))


COST = parse_verb("cost | coûter")
TRADES = parse_verbs("buy | acheter; sell | vendre")
PRICES = {
    **dict.fromkeys(("fruit", "dish", "food", "drink"), "2 3 4 5 6 8"),
    **dict.fromkeys(("text", "thing", "clothing", "alcohol"), "10 12 15 18 20 25 30 40 50 60 75 80"),
    **dict.fromkeys(("furniture", "pet", "beast"), "100 120 150 200 250 300 400 500"),
    "vehicle": "500 800 900 1,200 1,500 3,000 5,000 8,000",
}
PRICED = noun_list("cake sandwich cheese coffee wine clothing book umbrella watch bag lamp table chair bed clock "
                   "guitar vehicle horse cow goat dog")  # fmt: skip


UNPRICED = ("expensive", "hot", "cold", "intelligent")


def price(w: Writer) -> Pair:
    """This red dress costs 45 euros; they sold the car for 3,000 euros."""
    noun = w.pick(PRICED)
    figure = w.pick(PRICES[noun.kind].split())
    euros = f" {figure} euros", f" {figure.replace(',', ' ')} euros"
    if w.chance(0.6):
        subject = w.nominal(w.describe(w.pick(("the", "this", "that", "this")), noun, 0.4, but_not=UNPRICED))
        w.combine(noun.en, "cost")
        tense, slot = w.pick(((g.PRESENT, g.PLAIN), (g.PRESENT, g.PLAIN), (g.PRESENT, g.NOT), (g.PAST, g.PLAIN)))
        return sentence(say(Clause(subject, VerbPhrase(COST, euros), tense, slot)))
    verb, subject = w.pick(TRADES), w.subject(adult=True)
    w.combine(subject.head, verb.en, noun.en)
    name = "the" if noun.kind in lexicon.MASS_KINDS else w.pick(("a", "a", "this", "two+"))
    np = w.describe(name, noun, but_not=UNPRICED)
    tail = join(render(np), (" for", " pour"), euros)
    return sentence(say(Clause(subject, VerbPhrase(verb, tail), w.pick((g.PAST, g.PAST, g.PERFECT, g.FUTURE)))))


# --- timetables and dates ---------------------------------------------------------------------------------------------

TIMETABLE = tuple(
    (noun_list(nouns), verb, hours)
    for nouns, row, hours in (
        ("train bus plane boat", "leave | partir; arrive | arriver", (1, 12)),
        ("museum library bakery restaurant shop school market castle", "open | ouvrir", (7, 11)),
        ("museum library bakery restaurant shop park castle", "close | fermer", (4, 9)),
        ("film concert lesson meal", "begin | commencer; end | se_terminer", (1, 12)),
    )
    for verb in parse_verbs(row)
)
TIMETABLE_DAYS = {
    g.PRESENT: pairs(
        "on Mondays = le lundi; on Saturdays = le samedi; on Sundays = le dimanche; every day = tous les jours"
    ),
    g.FUTURE: NEXT_DAYS,
    g.PAST: LAST_DAYS,
}


def schedule(w: Writer) -> Pair:
    """The train to Lyon leaves at half past three."""
    nouns, verb, hours = w.pick(TIMETABLE)
    noun = w.pick(nouns)
    w.combine(noun.en, verb.en)
    subject = w.nominal(NounPhrase(DETERMINERS["the"], noun))
    if verb.en in ("leave", "arrive") and w.chance(0.6):
        link = (" to", " pour") if verb.en == "leave" else (" from", " de")
        en, fr = join((subject.en, subject.fr), link, w.pick(CITIES))
        subject = subject._replace(en=en, fr=fr)
    tense = w.pick((g.PRESENT, g.PRESENT, g.FUTURE, g.PAST))
    day = w.pick(TIMETABLE_DAYS[tense]) if w.chance(0.35) else ("", "")
    return sentence(say(Clause(subject, VerbPhrase(verb, join(w.time(*hours), day)), tense)))


def clock(w: Writer) -> Pair:
    """It is half past three."""
    hour, minute = w.number(1, 12), w.pick((0, 10, 15, 20, 30, 45))
    opening = w.pick((("it is ", "il est "), ("it is already ", "il est déjà "), ("it was ", "il était ")))
    return sentence(opening, (english_time(hour, minute), french_time(hour, minute)))


BORN, TAKE_PLACE, OPEN = parse_verb("be | naître"), parse_verb("take_place | avoir_lieu"), parse_verb("open | ouvrir")
EVENTS = (
    (noun_list("concert lesson market"), TAKE_PLACE, (g.FUTURE, g.PAST)),
    (noun_list("museum library restaurant school theatre hospital park bakery hotel"), OPEN, (g.FUTURE, g.PAST)),
)
BIRTH_YEARS = {
    "grand": (1930, 1950),
    "elder": (1960, 1985),
    "youth": (2010, 2022),
    "kin": (1970, 2005),
    "adult": (1960, 2002),
}
DATED = parse_verbs(
    "buy | acheter | 1 | | house car boat piano horse; sell | vendre | 1 | | house car boat piano horse; "
    "meet | rencontrer | | | adult; visit | visiter | | | museum castle island church; "
    "receive | recevoir | 1 | | letter message present; see | voir | | | actress queen king film"
)


def date(w: Writer) -> Pair:
    """She was born on 3 May 1998; the concert will take place on 1 June."""
    day, month = 1 if w.chance(0.1) else w.number(2, 28), w.pick(MONTHS)
    en, fr = f" on {day}{month[0]}", f" le {'1er' if day == 1 else day}{month[1]}"
    kind = w.pick(("event", "birth", "birth", "action"))
    if kind == "event":
        nouns, verb, tenses = w.pick(EVENTS)
        noun = w.pick(nouns)
        w.combine(noun.en, verb.en)
        subject = w.nominal(NounPhrase(DETERMINERS[w.pick(("the", "this"))], noun))
        return sentence(say(Clause(subject, VerbPhrase(verb, (en, fr)), w.pick(tenses))))
    if kind == "birth":
        subject = one_person(w)
        year = w.number(*BIRTH_YEARS[kind_of(subject)])
        phrase = VerbPhrase(BORN, (f" born{en} {year}", f"{fr} {year}"))
    else:
        subject, year = w.subject(adult=True), w.number(1990, 2024)
        phrase = w.action(subject, PAST, verbs=DATED)
        phrase = phrase._replace(tail=join(phrase.tail, (f"{en} {year}", f"{fr} {year}")))
    return sentence(say(Clause(subject, phrase, g.PAST)))


# --- durations, journeys, weather -------------------------------------------------------------------------------------

_YEARS = pairs("years = ans; months = mois; weeks = semaines")
_MINUTES = pairs("minutes = minutes")  # not hours: "depuis trois heures" is also "since three o'clock"
_LONG_SINCE = pairs("since last year = depuis l'année dernière; since last month = depuis le mois dernier")
_SHORT_SINCE = pairs("since this morning = depuis ce matin; since noon = depuis midi; since yesterday = depuis hier")
DURATIONS = (
    (parse_verb("live | habiter"), IN_PLACES, _YEARS, _LONG_SINCE),
    (
        parse_verb("work | travailler"),
        IN_PLACES + positions("hospital office library farm", "at = à"),
        _YEARS,
        _LONG_SINCE,
    ),
    (parse_verb("wait | attendre"), positions("station hotel hospital office", "at = à"), _MINUTES, _SHORT_SINCE),
    (parse_verb("wait | attendre"), positions("church shop museum", "in front of = devant"), _MINUTES, _SHORT_SINCE),
    (parse_verb("sleep | dormir"), (("", ""), *positions("bedroom garden", "in = dans")), _MINUTES, _SHORT_SINCE),
)


def duration(w: Writer) -> Pair:
    """She has been working in Lyon for three years."""
    verb, places, units, since = w.pick(DURATIONS)
    subject = w.noun_subject() if verb.en == "sleep" else w.subject()
    w.combine(subject.head, verb.en)
    n = w.number(2, 12)
    span = join((f" for {english_number(n)}", f" depuis {french_number(n)}"), w.pick(units))
    tail = join(w.pick(places), w.pick(since) if w.chance(0.25) else span)
    return sentence(say(Clause(subject, VerbPhrase(verb, tail), g.SINCE)))


STAY = parse_verb("stay | rester")
TRAVELS = parse_verbs("travel | voyager; arrive | arriver")
COMPANY = pairs("with my parents = avec mes parents; with two friends = avec deux amis; with my sister = avec ma sœur")


def journey(w: Writer) -> Pair:
    """My aunt went to Italy with two friends last week."""
    subject = w.subject(gendered=True)
    verb = w.pick((GO, GO, STAY, *TRAVELS))
    w.combine(subject.head, verb.en)
    en, fr = w.pick(COUNTRIES if verb.en == "travel" else ABROAD)
    company = w.pick(COMPANY) if w.chance(0.4) and subject.head != "sister" else ("", "")
    tense, times = w.pick(((g.PAST, PAST_TIMES), (g.FUTURE, FUTURE_TIMES)))
    tail = join(((" to" if verb is GO else " in") + en, fr), company, w.pick(times))
    return sentence(say(Clause(subject, VerbPhrase(verb, tail), tense)))


RAIN, SNOW = VerbPhrase(parse_verb("rain | pleuvoir")), VerbPhrase(parse_verb("snow | neiger"))
COLD, HOT, WINDY = (
    VerbPhrase(parse_verb("be | faire"), tail) for tail in pairs("cold = froid; hot = chaud; windy = du vent")
)
WEATHER = (RAIN, SNOW, COLD, HOT, WINDY)
_WINTER = pairs("in winter = en hiver; in January = en janvier; in February = en février; in December = en décembre")
_SUMMER = pairs("in summer = en été; in June = en juin; in July = en juillet; in August = en août")
_MIDDLE = pairs("in autumn = en automne; in spring = au printemps; in March = en mars; in April = en avril; "
                "in May = en mai; in October = en octobre; in November = en novembre")  # fmt: skip
SEASONS = {RAIN: _MIDDLE + _WINTER, SNOW: _WINTER, COLD: _WINTER, HOT: _SUMMER, WINDY: _MIDDLE}


def weather(w: Writer) -> Pair:
    """It often rains in Brussels in autumn; it will be cold tomorrow."""
    phrase = w.pick(WEATHER)
    place = w.pick(IN_PLACES) if w.chance(0.7) else ("", "")
    if w.chance(0.5):
        slot = w.pick((g.OFTEN, g.OFTEN, g.SOMETIMES, g.NEVER))
        tense, time = g.PRESENT, w.pick(SEASONS[phrase])
    else:
        verbal, slot = phrase in (RAIN, SNOW), w.pick((g.PLAIN, g.PLAIN, g.NOT))
        now, past = (g.PROGRESSIVE, g.PAST) if verbal else (g.PRESENT, g.PAST_STATE)
        tense, times = w.pick(((now, pairs("today = aujourd'hui")), (past, PAST_TIMES), (g.FUTURE, NEXT_DAYS)))
        time = w.pick(times)
    if phrase is WINDY and slot.negative:
        phrase = phrase._replace(tail=(" windy", " de vent"))
    return sentence(say(Clause(IT, phrase, tense, slot)), place, time)
