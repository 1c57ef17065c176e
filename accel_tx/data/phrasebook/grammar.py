"""The abstract side of the phrasebook: persons, tenses, adverbs, noun phrases and clauses, for both realisers.

A sentence is built from these once, and `english` and `french` each put it into words.
"""

from typing import NamedTuple

from accel_tx.data.phrasebook.lexicon import Adjective, Determiner, Gender, Noun, Verb

Pair = tuple[str, str]  # (English, French)

# Persons index the tables of endings. English "you" is always French "vous", so "tu" is not needed.
JE, IL, NOUS, VOUS, ILS = range(5)
PLURAL_PERSONS = (NOUS, ILS)


class Tense(NamedTuple):
    """One way to use a verb, in both languages.

    English: an auxiliary ("be", "was", "have", "will", "" ...) and a pattern over the forms of the verb. French: a
    simple form of the verb itself (no helper), the compound past (helper "aux"), or a helper before the infinitive.
    """

    en_auxiliary: str
    en_pattern: str
    fr_helper: str
    fr_form: str


PRESENT = Tense("", "{present}", "", "present")
PROGRESSIVE = Tense("be", "{ing}", "", "present")
PAST = Tense("", "{past}", "aux", "present")
PAST_STATE = Tense("", "{past}", "", "imperfect")
PAST_PROGRESSIVE = Tense("was", "{ing}", "", "imperfect")
USED_TO = Tense("used to", "{base}", "", "imperfect")
PERFECT = Tense("have", "{participle}", "aux", "present")
SINCE = Tense("have", "been {ing}", "", "present")
FUTURE = Tense("will", "{base}", "", "future")
WHEN_FUTURE = Tense("", "{present}", "", "future")  # "when he comes": French uses the future there
GOING_TO = Tense("be", "going to {base}", "aller", "present")
CONDITIONAL = Tense("would", "{base}", "", "conditional")
CAN = Tense("can", "{base}", "pouvoir", "present")
COULD = Tense("could", "{base}", "pouvoir", "conditional")
MUST = Tense("must", "{base}", "devoir", "present")
SHOULD = Tense("should", "{base}", "devoir", "conditional")
WOULD_LIKE = Tense("would", "like to {base}", "vouloir", "conditional")
WANT = Tense("", "{want} to {base}", "vouloir", "present")


class Slot(NamedTuple):
    """A negation or an adverb of frequency: English after the auxiliary, French after the finite verb."""

    en: str
    fr: str
    negative: bool  # French "ne", and "de" for an indefinite object
    en_end: str = ""


PLAIN = Slot("", "", False)
NOT = Slot("not", "pas", True)
NEVER = Slot("never", "jamais", True)
NO_LONGER = Slot("no longer", "plus", True)
NOT_YET = Slot("not", "pas encore", True, " yet")
ALREADY = Slot("already", "déjà", False)
STILL = Slot("still", "encore", False)
OFTEN = Slot("often", "souvent", False)
ALWAYS = Slot("always", "toujours", False)
SOMETIMES = Slot("sometimes", "parfois", False)


class NounPhrase(NamedTuple):
    determiner: Determiner
    noun: Noun
    adjectives: tuple[Adjective, ...] = ()


class Nominal(NamedTuple):
    """A realised subject with what agreement needs; `role` limits its verbs, `head` is its noun or name (or "")."""

    en: str
    fr: str
    person: int
    gender: Gender
    role: str = "adult"
    head: str = ""


class VerbPhrase(NamedTuple):
    """A verb and what follows it. In French an object pronoun precedes the verb and governs the participle."""

    verb: Verb
    tail: Pair = ("", "")
    clitic: str = ""
    object_gender: Gender = ""
    object_plural: bool = False


class Clause(NamedTuple):
    subject: Nominal
    phrase: VerbPhrase
    tense: Tense
    slot: Slot = PLAIN
