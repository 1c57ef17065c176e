"""Sentence patterns that describe: what people and things are like, how they compare, and where they are."""

from collections.abc import Sequence

from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.frames import pairs
from accel_tx.data.phrasebook.french import adjective_form
from accel_tx.data.phrasebook.grammar import Clause, Nominal, NounPhrase, Pair, Tense, VerbPhrase
from accel_tx.data.phrasebook.lexicon import DETERMINERS, Adjective, Noun, noun_list, parse_verb
from accel_tx.data.phrasebook.phrases import BE, Writer, join, render, say
from accel_tx.data.phrasebook.statements import sentence

_MOOD_TENSES = (g.PRESENT, g.PRESENT, g.PAST_STATE, g.FUTURE)


def description(w: Writer) -> Pair:
    """Somebody is tired, something is too expensive."""
    return sentence(mood_clause(w, w.subject()) if w.chance(0.4) else quality_clause(w))


def mood_clause(w: Writer, subject: Nominal, tenses: Sequence[Tense] = _MOOD_TENSES, embedded: bool = False) -> Pair:
    """How somebody feels, felt or will feel; `embedded` in a report, it is not negative."""
    tense = w.pick(tenses)
    slots = (g.PLAIN, g.PLAIN, g.NOT) if tense is g.FUTURE else (g.PLAIN, g.PLAIN, g.PLAIN, g.NOT, g.STILL)
    slot = g.PLAIN if embedded else w.pick(slots)
    return say(Clause(subject, w.mood(subject, slot), tense, slot))


def quality_clause(w: Writer, embedded: bool = False) -> Pair:
    """What something is or was like; `embedded` in a report, it is not negative, nor about "that" thing."""
    adjective, noun = w.pick(QUALITIES)
    subject = w.thing(noun, far=not embedded)
    w.combine(adjective.en, noun.en)
    transient = adjective.en in lexicon.TRANSIENT
    slot = w.pick((g.PLAIN, g.PLAIN, g.PLAIN, g.NOT, g.STILL, g.NO_LONGER) if transient else (g.PLAIN, g.PLAIN, g.NOT))
    slot = g.PLAIN if embedded else slot
    tense = w.pick((g.PRESENT, g.PRESENT, g.PRESENT, g.PAST_STATE))
    return say(Clause(subject, w.predicate(adjective, subject, slot), tense, slot))


QUALITIES = tuple((adjective, noun) for noun, row in lexicon.PREDICATES_OF.items() for adjective in row)


def comparison(w: Writer) -> Pair:
    """This car is faster than that boat; Paul is as tall as his brother."""
    if w.chance(0.5):
        adjective, first_noun, second_noun = w.pick(COMPARABLE)
        first, second = w.thing(first_noun), w.thing(second_noun)
        w.combine(adjective.en, second.head)
    else:
        first = w.noun_subject()
        second = w.somebody_else(first)
        both = f"{first.en} {second.en}"
        adjective = w.pick([trait for trait in lexicon.TRAITS if trait.en not in both])  # not "the rich man is richer"
    w.combine(adjective.en, first.head)
    return sentence(compare(w, adjective, first, second))


def compare(w: Writer, adjective: Adjective, first: Nominal, second: Nominal) -> Pair:
    """More, less or as ... as; English prefers "not as tall" to "less tall"."""
    form = adjective_form(adjective, first.gender, first.person in g.PLURAL_PERSONS)
    degree, slot = w.pick(("more", "more", "as", "less")), w.pick((g.PLAIN, g.PLAIN, g.NOT))
    if degree == "less" and not adjective.comparative.startswith("more"):
        degree, slot = "as", g.NOT
    if degree == "more":
        link = f" {adjective.comparative} than", f" {better(adjective, form)} que"
    elif degree == "as":
        link = f" as {adjective.en} as", f" aussi {form} que"
    else:
        link, slot = (f" less {adjective.en} than", f" moins {form} que"), g.PLAIN
    phrase = VerbPhrase(BE, join(link, (f" {second.en}", f" {second.fr}")))
    return say(Clause(first, phrase, w.pick((g.PRESENT, g.PRESENT, g.PAST_STATE)), slot))


def better(adjective: Adjective, form: str) -> str:
    """The French comparative of the agreed form: plus grand, meilleure."""
    return f"meilleur{form[3:].replace('ne', 'e')}" if adjective.en == "good" else f"plus {form}"


_GROUPS = (
    noun_list("vehicle transport"),
    noun_list("pet beast"),
    noun_list("text show"),
    noun_list("fruit dish food"),
    noun_list("drink alcohol"),
    noun_list("venue shop"),
    noun_list("village town island"),
    noun_list("clothing"),
    noun_list("thing furniture"),
    noun_list("topic"),
)
COMPARABLE = tuple(
    (adjective, first, second)
    for group in _GROUPS
    for first in group
    for second in group
    for adjective in lexicon.PREDICATES_OF[first]
    if first is not second and adjective.gradable and adjective in lexicon.PREDICATES_OF[second]
)


def superlative(w: Writer) -> Pair:
    """This is the oldest church in the village."""
    adjective, noun, regions = w.pick(SUPERLATIVES)
    w.combine(adjective.en, noun.en)
    plural = w.chance(0.25) and noun.kind not in lexicon.MASS_KINDS
    article = "les" if plural else "la" if noun.gender == "f" else "le"
    en_noun, fr_noun = (noun.en_plural, noun.fr_plural) if plural else (noun.en, noun.fr)
    next_word = fr_noun if adjective.before_noun else ""
    best = better(adjective, adjective_form(adjective, noun.gender, plural, next_word))
    fr = f"{best} {fr_noun}" if adjective.before_noun else f"{fr_noun} {article} {best}"
    opening = ("these are the", f"ce sont {article}") if plural else ("this is the", f"c'est {article}")
    return sentence(opening, (f" {adjective.superlative} {en_noun}", f" {fr}"), w.pick(regions))


_TOWN = pairs(
    "in the village = du village; in the town = de la ville; in the region = de la région; in Paris = de Paris"
)
_WORLD = pairs("in the world = du monde; in the country = du pays; in France = de France; in the region = de la région")
SUPERLATIVES = tuple(
    (adjective, noun, regions)
    for nouns, regions in (
        ("church hotel restaurant museum library school theatre market street house bridge park bakery baker", _TOWN),
        ("man woman doctor farmer gardener tree horse garden cake cheese bread soup coffee clock", _TOWN[:2]),
        ("village town island castle forest beach river actress", _WORLD),
        ("song film novel", _WORLD[:1]),
    )
    for noun in noun_list(nouns)
    for adjective in lexicon.ADJECTIVES
    if noun in adjective.nouns and adjective.gradable and adjective.en not in ("hot", "cold", "fresh", "clean")
)

# --- things in their places -------------------------------------------------------------------------------------------


def positions(nouns: str, prepositions: str) -> tuple[Pair, ...]:
    """Every preposition before every noun: under the table, near the station."""
    links = pairs(prepositions)
    the = DETERMINERS["the"]
    return tuple(render(NounPhrase(the, noun), link) for link in links for noun in noun_list(nouns))


ON_FURNITURE = positions("table chair bed", "on = sur; under = sous") + positions(
    "bag box", "in = dans; next to = à côté de"
)
AT_TABLE = positions("table", "on = sur") + positions("kitchen", "in = dans")
IN_TOWN = (
    positions("village town street", "in = dans")
    + positions("station museum church hotel castle", "near = près de; behind = derrière; in front of = devant")
    + positions("bridge river park beach", "near = près de")
)
OUTSIDE = (
    positions("garden park", "in = dans")
    + positions("house church", "near = près de; behind = derrière; in front of = devant")
    + positions("tree hedge", "near = près de; behind = derrière")
)
_BE_THERE = {
    g.PRESENT: ("is", "are", "a"),
    g.PAST_STATE: ("was", "were", "avait"),
    g.FUTURE: ("will be",) * 2 + ("aura",),
}
_INSIDE_TENSES = (g.PRESENT, g.PRESENT, g.PAST_STATE)
SCENES: tuple[tuple[tuple[Noun, ...], tuple[Pair, ...], tuple[Tense, ...]], ...] = (
    (noun_list("thing hat scarf newspaper letter"), ON_FURNITURE, _INSIDE_TENSES),
    (noun_list("fruit food drink cake sandwich plate glass knife bottle"), AT_TABLE, _INSIDE_TENSES),
    (
        noun_list("hotel restaurant museum bakery school library theatre park market"),
        IN_TOWN,
        (*_INSIDE_TENSES, g.FUTURE),
    ),
    (noun_list("pet beast tree flower"), OUTSIDE, _INSIDE_TENSES),
    (noun_list("man woman child boy girl car bike student"), OUTSIDE + IN_TOWN, _INSIDE_TENSES),
)


def existence(w: Writer) -> Pair:
    """There are three black cats under the table; there is no milk in the kitchen."""
    nouns, places, tenses = w.pick(SCENES)
    noun, place, tense = w.pick(nouns), w.pick(places), w.pick(tenses)
    if place[0].endswith(" " + noun.en):
        return whereabouts(w)
    if noun.kind in lexicon.MASS_KINDS:
        name = w.pick(("some", "some", "lot", "no"))
    else:
        crowd = "several+" if noun.kind == "thing" else "many+"  # not "too many keys under the bed"
        name = w.pick(("a", "a", "a", "two+", "three+", "some+", "several+", "lot+", "few+", "no+", crowd))
    none = name in ("no", "no+")
    singular, plural, there = _BE_THERE[tense]
    opening = f"there {plural if name.endswith('+') else singular}", f"il n'y {there} pas" if none else f"il y {there}"
    return sentence(opening, render(w.describe(name, noun), negated=none), place)


def whereabouts(w: Writer) -> Pair:
    """The keys are still on the table; she has put the newspaper in the bag."""
    noun = w.pick(SMALL_THINGS)
    place = w.pick(ON_FURNITURE)
    if w.chance(0.6):
        tense, slot = (
            w.pick((g.PRESENT, g.PRESENT, g.PAST_STATE)),
            w.pick((g.PLAIN, g.PLAIN, g.NOT, g.STILL, g.NO_LONGER)),
        )
        return sentence(say(Clause(w.thing(noun), VerbPhrase(BE, place), tense, slot)))
    subject = w.subject()
    w.combine(subject.head, "put", noun.en)
    tense, slot = w.pick(((g.FUTURE, g.PLAIN), (g.PERFECT, g.PLAIN), (g.PROGRESSIVE, g.PLAIN), (g.PAST, g.NOT)))
    tail = join(render(w.determine(noun, "definite", subject)), place)
    return sentence(say(Clause(subject, VerbPhrase(PUT, tail), tense, slot)))


SMALL_THINGS = noun_list(
    "key umbrella watch phone photo ball toy ticket pencil book letter newspaper knife hat scarf bottle"
)
PUT = parse_verb("put | mettre")
