"""Settings in time, and the determiners that suit an object in them.

`g` is the abstract grammar: persons, tenses, adverbs.
"""

from typing import NamedTuple

from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.grammar import Pair, Slot, Tense
from accel_tx.data.phrasebook.lexicon import Noun, Verb

# --- time -------------------------------------------------------------------------------------------------------------


def pairs(table: str) -> tuple[Pair, ...]:
    """Read `English = French` phrases separated by semicolons; each begins with a space."""
    rows = (entry.split("=") for entry in table.split(";"))
    return tuple((f" {en.strip()}", f" {fr.strip()}") for en, fr in rows)


_DAYS = pairs(
    "Monday = lundi; Tuesday = mardi; Wednesday = mercredi; Thursday = jeudi; Friday = vendredi; Saturday = samedi; "
    "Sunday = dimanche"
)
LAST_DAYS = (*pairs("yesterday = hier") * 3, *((f" last{en}", f"{fr} dernier") for en, fr in _DAYS))
NEXT_DAYS = (*pairs("tomorrow = demain") * 3, *((f" next{en}", f"{fr} prochain") for en, fr in _DAYS))
ALL_DAYS = (*pairs("every day = tous les jours") * 3, *((f" on{en}s", f" le{fr}") for en, fr in _DAYS))
PAST_TIMES = LAST_DAYS + pairs(
    "yesterday morning = hier matin; this morning = ce matin; last night = hier soir; "
    "two days ago = il y a deux jours; last week = la semaine dernière; a week ago = il y a une semaine; "
    "last month = le mois dernier"
)
FUTURE_TIMES = NEXT_DAYS + pairs(
    "tomorrow morning = demain matin; this evening = ce soir; "
    "in three days = dans trois jours; next week = la semaine prochaine; next month = le mois prochain"
)
HABIT_TIMES = ALL_DAYS + pairs(
    "every morning = tous les matins; every evening = tous les soirs; every week = toutes les semaines"
)


class Frame(NamedTuple):
    """A setting in time: tenses of actions and of states, adverbs, time phrases, and the use a verb must allow."""

    tenses: tuple[Tense, ...]
    state_tense: Tense | None = None
    slots: tuple[Slot, ...] = (g.PLAIN,)
    times: tuple[Pair, ...] = ()
    days: tuple[Pair, ...] = ()  # times that go with any hour of the day
    use: str = ""
    objects: str = "count"  # the pool of determiners for objects that one can count


FREQUENCIES = (g.OFTEN, g.OFTEN, g.ALWAYS, g.SOMETIMES, g.NEVER, g.NEVER)
MOSTLY_PLAIN = (g.PLAIN, g.PLAIN, g.PLAIN, g.NOT)
NOW = Frame((g.PROGRESSIVE,), g.PRESENT, MOSTLY_PLAIN, pairs("now = maintenant"), (), "e", "current")
HABIT = Frame(
    (g.PRESENT,),
    g.PRESENT,
    (g.PLAIN,) * 4 + FREQUENCIES + (g.NOT, g.NOT, g.NO_LONGER),
    HABIT_TIMES,
    ALL_DAYS,
    "h",
    "habit",
)
FREQUENT = HABIT._replace(slots=FREQUENCIES)
PAST = Frame((g.PAST,), g.PAST_STATE, MOSTLY_PLAIN, PAST_TIMES, LAST_DAYS)
PERFECT = Frame((g.PERFECT,), None, (g.ALREADY, g.ALREADY, g.NOT_YET, g.NEVER), use="x")
BACKGROUND = Frame((g.PAST_PROGRESSIVE,), g.PAST_STATE, use="e", objects="current")
USED = Frame((g.USED_TO,), use="h", objects="habit")
FUTURE = Frame((g.FUTURE, g.FUTURE, g.GOING_TO), None, MOSTLY_PLAIN, FUTURE_TIMES, NEXT_DAYS, "f")
PURPOSEFUL = Frame((g.PRESENT,), use="v", objects="plain")  # infinitives and orders: what one can decide to do
DEFINITELY = PURPOSEFUL._replace(objects="definite")
FRAMES = (NOW, NOW, HABIT, HABIT, PAST, PAST, PAST, PERFECT, BACKGROUND, USED, FUTURE, FUTURE)

# --- determiners of objects -------------------------------------------------------------------------------------------

DETERMINER_POOLS = {
    name: tuple(row.split())
    for name, row in {  # own: the possessive of the subject
        "person": "the the the this a the+",
        "person definite": "the the the this the+",
        "kin": "own own own+",
        "elder": "own",
        "unique": "the the the own this",
        "public": "the the the this a",
        "definite": "the the this that own the+",
        "definite one": "the this that own",
        "definite many": "the+ the+ this+ that+ own+",
        "pointed": "the the this that",
        "the": "the",
        "count": "the the the a a a a this that own own the+ own+ two+ three+ four+ some+ some+ several+ few+",
        "one": "the the a a a a this that own own",
        "current": "the the the a a a this own own the+ some+",
        "wanted": "a a a this the",
        "plain": "the the the a a a this that own own the+ own+ some+",
        "negated": "the the the a this own the+",
        "never": "a a a this own",
        "habit": "own own own+ the",
        "worn by many": "bare+ bare+ own+ the+",
        "habit one": "a a own the",
        "indefinite": "a bare+ bare+",
        "indefinite plural": "bare+",
        "fruit": "some+ some+ the+ the+ a two+ three+ six+ own+",
        "plural": "some+ some+ the+ the+ six+ ten+",
        "plural negated": "bare+ the+ own+",
        "mass": "bare bare bare some some the the lot",
        "mass negated": "bare bare the",
        "mass habit": "bare",
        "state": "a a a two+ three+ four+ six+ several+",
        "state one": "a",
    }.items()
}
_POOL_OF_PEOPLE = {"adult": "person definite", "youth": "person definite", "kin": "kin", "elder": "elder"}
_POOL_OF_PLACES = {
    **dict.fromkeys(("room", "part"), "unique"),
    **dict.fromkeys(("venue", "outdoors", "landmark"), "public"),
    "transport": "the",
}


def object_pool(verb: Verb, noun: Noun, frame: Frame, slot: Slot) -> str:
    """The name of the determiners that suit an object."""
    habit, definite = frame.objects == "habit", frame.objects == "definite" or "d" in verb.uses
    if noun.kind in _POOL_OF_PEOPLE:
        vague = noun.kind in ("adult", "youth") and not (definite or habit or slot.negative)
        return "person" if vague else _POOL_OF_PEOPLE[noun.kind]
    if noun.kind in lexicon.MASS_KINDS:
        return "the" if definite else "mass habit" if habit else "mass negated" if slot.negative else "mass"
    if habit and "i" in verb.uses:
        single = slot is g.PLAIN and frame is HABIT and noun.kind in ("fruit", "dish", "text", "show")
        return "indefinite" if single and "p" not in verb.uses else "indefinite plural"
    if definite and noun.kind in _POOL_OF_PLACES:
        return "definite one" if noun.kind in ("room", "part") else "pointed"
    if definite:
        return "definite many" if noun.kind == "fruit" else "definite"
    if noun.kind in _POOL_OF_PLACES:
        return _POOL_OF_PLACES[noun.kind]
    if habit:
        return "habit one" if "1" in verb.uses else "habit"
    if slot.negative:
        return "never" if slot is g.NEVER else "plural negated" if "p" in verb.uses else "negated"
    if "1" in verb.uses:
        return "one"
    if "p" in verb.uses:
        return "plural"
    return "fruit" if noun.kind == "fruit" else frame.objects
