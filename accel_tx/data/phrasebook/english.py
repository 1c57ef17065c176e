"""The English realiser: verb forms, do-support, word order, numbers, a/an."""

import re
from functools import cache

from accel_tx.data.phrasebook.grammar import IL, Clause, NounPhrase, Slot, Tense

_IRREGULAR = {
    base: (past, participle)
    for base, past, participle in (
        row.split()
        for row in """begin began begun, break broke broken, bring brought brought, build built built,
        buy bought bought, choose chose chosen, come came come, cost cost cost, cut cut cut, draw drew drawn,
        drink drank drunk, drive drove driven, eat ate eaten, find found found, forget forgot forgotten, get got got,
        give gave given, go went gone, have had had, hear heard heard, hide hid hidden, know knew known,
        leave left left, lend lent lent, lose lost lost, meet met met, put put put, read read read, run ran run,
        say said said, see saw seen, sell sold sold, send sent sent, show showed shown, sing sang sung,
        sleep slept slept, swim swam swum, take took taken, think thought thought,
        understand understood understood, wake woke woken, wear wore worn, write wrote written""".split(",")
    )
}
_DOUBLED = frozenset({"run", "swim", "put", "cut", "get", "begin", "forget", "travel"})  # British spelling
_PERSONS = {  # I, he, we, you, they
    "be": ("am", "is", "are", "are", "are"),
    "was": ("was", "was", "were", "were", "were"),
    "have": ("have", "has", "have", "have", "have"),
    "do": ("do", "does", "do", "do", "do"),
}


@cache
def english_forms(verb: str) -> dict[str, str]:
    """Base, third person, past, participle and -ing form of an English verb; its particle stays behind."""
    base, *particle = verb.split()
    if base in ("have", "be"):
        third = _PERSONS[base][IL]
    elif re.search(r"(o|s|x|sh|ch)$", base):
        third = base + "es"
    else:
        third = re.sub(r"(?<=[^aeiou])y$", "ie", base) + "s"
    doubled = base + base[-1] if base in _DOUBLED else base
    regular = base + "d" if base.endswith("e") else re.sub(r"(?<=[^aeiou])y$", "i", doubled) + "ed"
    past, participle = _IRREGULAR.get(base, (regular, regular))
    ing = re.sub(r"(?<=[^e])e$", "", doubled) + "ing" if base != "be" else "being"
    forms = {"base": base, "third": third, "past": past, "participle": participle, "ing": ing}
    return {name: " ".join([form, *particle]) for name, form in forms.items()}


@cache
def verb_group(verb: str, tense: Tense, person: int, supported: bool = False) -> tuple[str, str]:
    """The auxiliary and the rest of the verb group; `supported` adds the "do" that "not" and questions need."""
    auxiliary, pattern = tense.en_auxiliary, tense.en_pattern
    if verb == "be" and pattern in ("{present}", "{past}"):
        return _PERSONS["be" if pattern == "{present}" else "was"][person], ""
    if supported and not auxiliary:
        auxiliary = "did" if pattern == "{past}" else "do"
        pattern = pattern.replace("{past}", "{base}").replace("{present}", "{base}").replace("{want}", "want")
    forms = english_forms(verb)
    present, want = ("third", "wants") if person == IL else ("base", "want")
    rest = pattern.format(**forms, present=forms[present], want=want)
    return (_PERSONS[auxiliary][person] if auxiliary in _PERSONS else auxiliary), rest


@cache
def verb_words(verb: str, tense: Tense, slot: Slot, person: int) -> str:
    """The verb group of a statement with its adverb: is not reading, never reads."""
    auxiliary, rest = verb_group(verb, tense, person, slot.en == "not")
    return " ".join(word for word in (auxiliary, slot.en, rest) if word)


def english_clause(clause: Clause) -> str:
    """The declarative clause."""
    subject, phrase, tense, slot = clause
    return f"{subject.en} {verb_words(phrase.verb.en, tense, slot, subject.person)}{phrase.tail[0]}{slot.en_end}"


def english_question(clause: Clause) -> str:
    """The clause in question order, without the question word."""
    subject, phrase, tense, slot = clause
    auxiliary, rest = verb_group(phrase.verb.en, tense, subject.person, True)
    words = [word for word in (auxiliary, subject.en, slot.en, rest) if word]
    return " ".join(words) + phrase.tail[0] + slot.en_end


def english_np(np: NounPhrase) -> str:
    """Determiner, adjectives and noun."""
    determiner, noun, adjectives = np
    head = noun.en_plural if determiner.plural else noun.en
    for adjective in reversed(adjectives):
        head = f"{adjective.en} {head}"
    return f"{determiner.en} {head}" if determiner.en else head


_A_BEFORE_VOWEL = re.compile(r" a (?=[aeiouAEIOU])")


def finish_english(text: str) -> str:
    """Settle a/an and "cannot", then capitalise."""
    text = _A_BEFORE_VOWEL.sub(" an ", f" {text}").replace(" can not ", " cannot ")
    return text[1].upper() + text[2:]


_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def english_number(n: int) -> str:
    """A number from 0 to 99 in words."""
    if n < 20:
        return _UNITS[n]
    tens, unit = _TENS[n // 10 - 2], n % 10
    return f"{tens}-{_UNITS[unit]}" if unit else tens


def english_time(hour: int, minute: int) -> str:
    """A time of day to the quarter, or at ten or twenty past: half past three; 12 is noon."""
    if minute == 0:
        return "noon" if hour == 12 else f"{english_number(hour)} o'clock"
    if minute == 45:
        return f"a quarter to {english_number(hour % 12 + 1)}"
    part = {10: "ten", 15: "a quarter", 20: "twenty", 30: "half"}[minute]
    return f"{part} past {english_number(hour)}"
