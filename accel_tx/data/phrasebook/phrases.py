"""The parts of sentences: random subjects, objects, verb phrases and clauses, each built in both languages at once.

A `Writer` draws from one random stream and notes every lexical combination that it uses, such as (red, dress).
`g` is the abstract grammar: persons, tenses, adverbs.
"""

import random
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TypeVar

from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.english import english_clause, english_np, english_time
from accel_tx.data.phrasebook.frames import (
    DETERMINER_POOLS,
    HABIT,
    MOSTLY_PLAIN,
    NOW,
    PERFECT,
    Frame,
    object_pool,
    pairs,
)
from accel_tx.data.phrasebook.french import adjective_form, french_clause, french_np, french_time
from accel_tx.data.phrasebook.grammar import Clause, Nominal, NounPhrase, Pair, Slot, VerbPhrase
from accel_tx.data.phrasebook.lexicon import DETERMINERS, KINDS, NOUNS, Adjective, Noun, Verb, parse_verb

T = TypeVar("T")

# --- words that the phrases are made with -----------------------------------------------------------------------------

_PRONOUN_ROWS: tuple[tuple[str, str, int, lexicon.Gender], ...] = (
    ("I", "je", g.JE, ""),
    ("he", "il", g.IL, "m"),
    ("she", "elle", g.IL, "f"),
    ("it m", "il", g.IL, "m"),
    ("it f", "elle", g.IL, "f"),
    ("we", "nous", g.NOUS, ""),
    ("you", "vous", g.VOUS, ""),
    ("they m", "ils", g.ILS, "m"),
    ("they f", "elles", g.ILS, "f"),
)
PRONOUNS = {key: Nominal(key.split()[0], fr, person, gender) for key, fr, person, gender in _PRONOUN_ROWS}
IT, YOU = PRONOUNS["it m"], PRONOUNS["you"]
_ANY_PRONOUN = tuple(PRONOUNS[key] for key in ("I", "I", "he", "he", "she", "she", "we", "you", "they m"))
_GENDERED_PRONOUN = tuple(PRONOUNS[key] for key in ("he", "she", "they m"))
_OWNERS = {(g.JE, ""): "my", (g.IL, "m"): "his", (g.IL, "f"): "her", (g.NOUS, ""): "our", (g.VOUS, ""): "your"}
_PEOPLE = ("the",) * 6 + ("this", "the+", "the+", "the+", "this+")
# Only the speaker's and the listener's: "his sister" would look for its owner in the same sentence, in French too.
FAMILIES = ("my", "my", "my", "your", "our")
_ANY = frozenset(  # verbs that take "any": she did not buy any apples
    "read, write, buy, sell, eat, drink, draw, receive, find, learn, see, hear, watch, prepare".split(", ")
)
_DEGREES = pairs("very = très; too = trop; very = très; rather = plutôt")
FEELINGS = tuple(  # the same for any gender and number
    VerbPhrase(parse_verb(f"be | {verb}"), (f" {en}", f" {fr}"))
    for en, verb, fr in (
        ("hungry", "avoir", "faim"),
        ("thirsty", "avoir", "soif"),
        ("cold", "avoir", "froid"),
        ("hot", "avoir", "chaud"),
        ("afraid", "avoir", "peur"),
        ("sleepy", "avoir", "sommeil"),
        ("late", "être", "en retard"),
        ("angry", "être", "en colère"),
        ("on holiday", "être", "en vacances"),
    )
)
BE, GO = parse_verb("be | être"), lexicon.MOTION[0]
BY_VEHICLE = pairs("by car = en voiture; by bike = à vélo; on foot = à pied; by bus = en bus")
DRESSES = lexicon.noun_list("dress skirt")
INVARIANT_PAST = frozenset({"read", "cut"})  # "they read": present or past
_HOURLESS = frozenset({"rest", "go for a walk"})
_CLAUSE_KINDS = ("action",) * 5 + ("intransitive", "motion", "routine", "state")
_STATE_SLOTS = (g.PLAIN, g.PLAIN, g.PLAIN, g.PLAIN, g.NOT, g.NOT, g.STILL, g.NO_LONGER)


@cache
def _select(table: str, role: str, use: str) -> tuple[Verb, ...]:
    verbs: tuple[Verb, ...] = getattr(lexicon, table)
    return tuple(verb for verb in verbs if role in verb.roles and use in verb.uses)


@cache
def transitive_verbs(names: str, role: str = "adult") -> tuple[Verb, ...]:
    """The transitive verbs of these names that the role may be the subject of."""
    return tuple(v for v in lexicon.TRANSITIVE if v.en in names.replace("_", " ").split(", ") and role in v.roles)


def render(np: NounPhrase, preposition: Pair = ("", ""), negated: bool = False) -> Pair:
    """The noun phrase in both languages, behind a preposition if one is given, with a space before it."""
    return f"{preposition[0]} {english_np(np)}", f" {french_np(np, preposition[1].lstrip(), negated)}"


def say(clause: Clause) -> Pair:
    """The declarative clause in both languages."""
    return english_clause(clause), french_clause(clause)


def join(*parts: Pair) -> Pair:
    """The parts one after the other, in each language."""
    return "".join([part[0] for part in parts]), "".join([part[1] for part in parts])


def fits(subject: Nominal, verb: Verb, noun: Noun) -> bool:
    """Whether the subject may do that to the noun: not to itself; no man wears a dress, no child has a son."""
    if verb.en in ("wear", "want", "need") and noun in DRESSES and subject.gender != "f":
        return False
    return noun.en != subject.head and not (subject.role == "youth" and noun.en in ("son", "daughter"))


class Writer:
    """Draws phrases from one random stream; `combinations` collects the lexical combinations used so far."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self.combinations: list[tuple[str, str]] = []

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def number(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self._random() * (high - low + 1))

    def combine(self, *words: str) -> None:
        """Note the combinations of each word with the next: subject, verb, object."""
        for first, second in pairwise(words):
            if first and second:
                self.combinations.append((first, second))

    # --- noun phrases ---

    def describe(self, name: str, noun: Noun, share: float = 0.25, but_not: Sequence[str] = ()) -> NounPhrase:
        """The noun with the determiner of that name and none, one or two adjectives that suit it."""
        determiner = DETERMINERS[name]
        options: Sequence[Adjective] = lexicon.ATTRIBUTES_OF[noun] if self._random() < share else ()
        if but_not:
            options = [adjective for adjective in options if adjective.en not in but_not]
        if not options:
            return NounPhrase(determiner, noun)
        first = self.pick(options)
        self.combine(first.en, noun.en)
        second = self.pick(options)
        if first.before_noun and second.en in lexicon.SECOND_ADJECTIVES and self.chance(0.4):
            self.combine(second.en, noun.en)
            return NounPhrase(determiner, noun, (first, second))
        return NounPhrase(determiner, noun, (first,))

    def determine(self, noun: Noun, pool: str, subject: Nominal, share: float = 0.25, owned: bool = True) -> NounPhrase:
        """The noun with a determiner of the pool; possessives refer back to the subject, if it may own the noun."""
        name = self.pick(DETERMINER_POOLS[pool])
        if noun.en in ("king", "queen") or (name == "own" and not owned):
            name = "the"
        elif name == "own+" and not owned:
            name = "the+"
        elif name.startswith("own"):
            owner = "their" if subject.person == g.ILS else _OWNERS[subject.person, subject.gender]
            name = ("this" if noun in DRESSES and owner == "his" else owner) + name[3:]
        return self.describe(name, noun, share)

    def object_phrase(self, verb: Verb, noun: Noun, subject: Nominal, frame: Frame, slot: Slot) -> NounPhrase:
        """The noun as a direct object, with a determiner that suits the noun, the time and the polarity."""
        pool = object_pool(verb, noun, frame, slot)
        if verb.en == "wear" and subject.person in g.PLURAL_PERSONS:
            pool = "worn by many"
        if slot.en == "not" and pool.endswith("negated") and verb.en in _ANY and self.chance(0.35):
            return self.describe("any" if pool == "mass negated" else "any+", noun, 0.1)
        return self.determine(noun, pool, subject, owned="n" not in verb.uses)

    # --- subjects ---

    def nominal(self, np: NounPhrase) -> Nominal:
        """The noun phrase as a subject."""
        noun = np.noun
        role = noun.kind if noun.kind in ("youth", "pet") else "adult"
        person = g.ILS if np.determiner.plural else g.IL
        return Nominal(english_np(np), french_np(np), person, noun.gender, role, noun.en)

    def thing(self, noun: Noun, far: bool = True) -> Nominal:
        """The noun as the subject of a description: this dress, my keys; if `far`, also that dress, those dresses."""
        if noun.kind in ("clothing", "vehicle", "thing", "pet", "room") and self.chance(0.4):
            name = self.pick(("my", "my+", "your", "your+", "his", "his+", "her", "her+", "our", "their"))
            name = name.replace("his", "her") if noun in DRESSES else name
            return self.nominal(self.describe(name.rstrip("+") if noun.kind == "room" else name, noun, 0))
        mass = noun.kind in lexicon.MASS_KINDS
        name = self.pick(("the", "this", "that") if mass else ("the", "the", "this", "the+", "this+", "that", "that+"))
        name = name if far else name.replace("that", "the")
        return self.nominal(self.describe(name, noun, 0))

    def relative(self, plural_share: float = 0.2, owners: Sequence[str] = FAMILIES) -> Nominal:
        """A member of somebody's family: my sister, your uncles."""
        noun, owner = self.pick(KINDS["kin"] + KINDS["elder"]), self.pick(owners)
        plural = noun.kind == "kin" and self.chance(plural_share)
        return self.nominal(self.describe(owner + "+" if plural else owner, noun))

    def name(self) -> Nominal:
        name, gender = self.pick(lexicon.NAMES)
        return Nominal(name, name, g.IL, gender, "adult", name)

    def person(self, pool: Sequence[str] = _PEOPLE, adult: bool = False) -> Nominal:
        """Somebody known by their work or age: the old gardener, these girls."""
        noun = self.pick(KINDS["adult"] if adult or self.chance(0.75) else KINDS["youth"])
        name = "the" if noun.en in ("king", "queen") else self.pick(pool)
        return self.nominal(self.describe(name, noun, 0.2))

    def couple(self) -> Nominal:
        """Two people: Paul and his sister."""
        first = second = self.name()
        if self.chance(0.5):
            second = self.relative(owners=("her",) if first.gender == "f" else ("his",), plural_share=0)
        while first.head == second.head:
            second = self.name()
        gender: lexicon.Gender = "f" if first.gender == second.gender == "f" else "m"
        return Nominal(f"{first.en} and {second.en}", f"{first.fr} et {second.fr}", g.ILS, gender)

    def noun_subject(self, adult: bool = False) -> Nominal:
        """A person named by a noun or name, so that the source tells the gender."""
        draw = self._random()
        if draw < 0.45:
            return self.person(adult=adult)
        if draw < 0.75:
            return self.relative()
        return self.name() if draw < 0.95 else self.couple()

    def subject(self, gendered: bool = False, adult: bool = False) -> Nominal:
        """Any human subject; `gendered` leaves out those whose gender English hides, `adult` the children."""
        if self.chance(0.4):
            return self.pick(_GENDERED_PRONOUN if gendered else _ANY_PRONOUN)
        return self.noun_subject(adult)

    def somebody_else(self, *others: Nominal) -> Nominal:
        """A person named by another kind of noun than the others, so never one of them."""
        kinds = {NOUNS[other.head].kind if other.head in NOUNS else "name" for other in others}
        if any(" and " in other.en for other in others):
            kinds.add("kin")  # a couple: Paul and his sister
        ways = ((self.person, {"adult", "youth"}), (self.relative, {"kin", "elder"}), (self.name, {"name"}))
        return self.pick([way for way, its_kinds in ways if kinds.isdisjoint(its_kinds)])()

    def animal(self) -> Nominal:
        name = self.pick(("the", "the", "the", "this", "the+", "two+", "my", "our", "your", "his", "her"))
        return self.nominal(self.describe(name, self.pick(KINDS["pet"]), 0.2))

    def pronoun(self, antecedent: Nominal) -> Nominal:
        """The pronoun that takes up a person again."""
        if not antecedent.gender:
            return antecedent
        if antecedent.person == g.ILS:
            key = "they f" if antecedent.gender == "f" else "they m"
        else:
            key = "she" if antecedent.gender == "f" else "he"
        return PRONOUNS[key]._replace(role=antecedent.role)

    # --- verb phrases: all take (subject, frame, slot) ---

    def action(self, subject: Nominal, frame: Frame, slot: Slot = g.PLAIN, verbs: Sequence[Verb] = ()) -> VerbPhrase:
        """A transitive verb, of the given ones if any, with its object."""
        verbs = verbs or _select("TRANSITIVE", subject.role, frame.use)
        verb = self.pick(verbs)
        while frame.tenses[0] is g.PAST and verb.en in INVARIANT_PAST and subject.person != g.IL:
            verb = self.pick(verbs)
        noun = self.pick(verb.nouns)
        while not fits(subject, verb, noun):
            noun = self.pick(verb.nouns)
        if noun.kind in ("adult", "kin") and self.chance(0.2):
            name = self.name()
            if name.head != subject.head:
                self.combine(subject.head, verb.en, name.head)
                return VerbPhrase(verb, (f" {name.en}", f" {name.fr}"))
        self.combine(subject.head, verb.en, noun.en)
        np = self.object_phrase(verb, noun, subject, frame, slot)
        return VerbPhrase(verb, render(np, ("", verb.preposition), slot.negative))

    def intransitive(self, subject: Nominal, frame: Frame, slot: Slot = g.PLAIN) -> VerbPhrase:
        """A verb without an object, in its place if it has one."""
        verb = self.pick(_select("INTRANSITIVE", subject.role, frame.use))
        self.combine(subject.head, verb.en)
        if not verb.nouns or (frame.use != "h" and self.chance(0.15)):
            return VerbPhrase(verb)
        noun = self.pick(verb.nouns)
        self.combine(verb.en, noun.en)
        return VerbPhrase(verb, self.place(noun))

    def motion(self, subject: Nominal, frame: Frame, slot: Slot = g.PLAIN) -> VerbPhrase:
        """Going, coming back, arriving or staying somewhere."""
        verb = self.pick(_select("MOTION", "adult", frame.use))
        noun = self.pick(verb.nouns)
        self.combine(subject.head, verb.en, noun.en)
        link = {"go": " to", "come back": " from", "arrive": " at", "stay": " at"}[verb.en]
        tail = render(NounPhrase(DETERMINERS["the"], noun), (link, verb.preposition))
        if verb.en != "stay" and self.chance(0.15):
            tail = join(tail, self.pick(BY_VEHICLE))
        return VerbPhrase(verb, tail)

    def going(self, subject: Nominal, noun: Noun | None = None) -> VerbPhrase:
        """Going to a place, the given one if any."""
        noun = noun or self.pick(GO.nouns)
        self.combine(subject.head, GO.en, noun.en)
        return VerbPhrase(GO, render(NounPhrase(DETERMINERS["the"], noun), (" to", GO.preposition)))

    def routine(self, subject: Nominal, frame: Frame, slot: Slot = g.PLAIN) -> VerbPhrase:
        """A reflexive verb of daily life, often with its hour."""
        verb = self.pick(_select("REFLEXIVE", "adult", frame.use))
        self.combine(subject.head, verb.en)
        if verb.en in _HOURLESS or frame.use in ("e", "x") or (frame.use != "h" and self.chance(0.4)):
            return VerbPhrase(verb)
        return VerbPhrase(verb, self.time(8, 11) if verb.en == "go to bed" else self.time(5, 10))

    def state(self, subject: Nominal, frame: Frame, slot: Slot = g.PLAIN) -> VerbPhrase:
        """Having, wanting, needing, liking or knowing something."""
        verb = self.pick(_select("STATE", subject.role, ""))
        while verb.en == "know" and slot not in (g.PLAIN, g.NOT):
            verb = self.pick(_select("STATE", subject.role, ""))
        noun = self.pick(verb.nouns)
        while not fits(subject, verb, noun):
            noun = self.pick(verb.nouns)
        self.combine(subject.head, verb.en, noun.en)
        if "d" in verb.uses:
            pool = "person" if noun.kind == "adult" else "definite one" if noun.kind == "clothing" else "pointed"
        elif noun.kind in lexicon.MASS_KINDS:
            pool = "mass negated" if slot.negative else "mass"
        else:
            pool = "state" if noun.kind in ("kin", "pet", "fruit", "topic") and not slot.negative else "state one"
            if subject.person in g.PLURAL_PERSONS and noun.kind in ("clothing", "thing"):
                pool = "indefinite plural"
        return VerbPhrase(verb, render(self.determine(noun, pool, subject), ("", verb.preposition), slot.negative))

    def mood(self, subject: Nominal, slot: Slot = g.PLAIN) -> VerbPhrase:
        """How somebody feels."""
        if subject.person == g.VOUS or self.chance(0.3):
            return self.pick(FEELINGS)
        return self.feel(subject, lexicon.MOODS if slot in (g.PLAIN, g.NOT) else lexicon.STEADY_MOODS, slot)

    def feel(self, subject: Nominal, moods: Sequence[Adjective], slot: Slot = g.PLAIN) -> VerbPhrase:
        """To be tired, to be very sad; where English hides the gender, only what agrees alike for both."""
        adjective = self.pick(moods) if subject.gender else self.pick([a for a in moods if a in lexicon.EPICENE_MOODS])
        self.combine(subject.head, adjective.en)
        return self.predicate(adjective, subject, slot)

    def predicate(self, adjective: Adjective, subject: Nominal, slot: Slot = g.PLAIN) -> VerbPhrase:
        """To be big, very big, too big."""
        form = adjective_form(adjective, subject.gender, subject.person in g.PLURAL_PERSONS)
        tail = (f" {adjective.en}", f" {form}")
        if slot in (g.PLAIN, g.NOT) and adjective.gradable and self.chance(0.5):
            degrees = _DEGREES[: 2 if slot is g.NOT else 4]  # not "not rather big"
            tail = join(self.pick(degrees if adjective.en in lexicon.TOO_MUCH else degrees[::2]), tail)
        return VerbPhrase(BE, tail)

    # --- places and times ---

    def place(self, noun: Noun) -> Pair:
        """At the school, in the old street."""
        if noun.kind == "venue":
            return render(NounPhrase(DETERMINERS["the"], noun), (" at", "à"))
        return render(self.describe(self.pick(("the", "the", "the", "this")), noun, 0.15), (" in", "dans"))

    def time(self, first_hour: int = 1, last_hour: int = 12) -> Pair:
        """At half past three."""
        hour, minute = self.number(first_hour, last_hour), self.pick((0, 0, 0, 30, 30, 15, 45, 10, 20))
        return f" at {english_time(hour, minute)}", f" à {french_time(hour, minute)}"

    # --- clauses ---

    def clause(self, frame: Frame, subject: Nominal | None = None, kind: str = "", slot: Slot | None = None) -> Clause:
        """A clause set in the frame; the subject, the kind of verb phrase and the adverb may be given."""
        kind = kind or self.pick(_CLAUSE_KINDS)
        if kind == "state" and frame.state_tense is None:
            kind = "action"
        tense = frame.tenses[0] if kind in ("motion", "routine") else self.pick(frame.tenses)
        gendered = kind in ("motion", "routine") and tense.fr_helper == "aux"
        if subject is None:
            subject = self.animal() if kind == "intransitive" and self.chance(0.2) else self.subject(gendered)
        if gendered and not subject.gender:
            kind = "action"
        if kind == "intransitive" and not _select("INTRANSITIVE", subject.role, frame.use):
            kind = "action"
        if kind == "state" and frame.state_tense:
            tense = frame.state_tense
        slot = slot or self.adverb(frame, kind)
        build = {
            "action": self.action,
            "intransitive": self.intransitive,
            "motion": self.motion,
            "routine": self.routine,
            "state": self.state,
        }[kind]
        return Clause(subject, build(subject, frame, slot), tense, slot)

    def adverb(self, frame: Frame, kind: str) -> Slot:
        """A negation, an adverb of frequency or nothing, as the setting and the kind of verb phrase allow."""
        if kind == "state":
            return self.pick(_STATE_SLOTS if frame.state_tense is g.PRESENT else MOSTLY_PLAIN)
        slot = self.pick(frame.slots)
        if frame is PERFECT and slot is g.NEVER and kind in ("motion", "routine"):
            return g.ALREADY  # not "he has never got up"
        if frame is NOW and slot is g.PLAIN and kind == "intransitive" and self.chance(0.15):
            return g.STILL
        return slot

    def timed(self, clause: Clause, frame: Frame, share: float = 0.35, front: bool = True) -> Pair:
        """The clause with a time phrase behind it or before it, if it takes one; a plain habit always does."""
        verb, tail = clause.phrase.verb, clause.phrase.tail
        plain_habit = frame is HABIT and clause.slot is g.PLAIN
        if clause.slot not in (g.PLAIN, g.NOT) or clause.tense not in frame.tenses or not frame.times:
            return say(clause)
        untimed = verb.en in ("laugh", "cry", "smile") or (verb.reflexive and not tail[0] and verb.en not in _HOURLESS)
        if untimed or not (plain_habit or self.chance(share)):
            return say(clause)
        whole_day = verb.reflexive or not tail[0] or clause.slot is g.NOT
        time = self.pick(frame.days if whole_day and frame.days else frame.times)
        if front and frame is not NOW and self.chance(0.2):
            en, fr = say(clause)
            return f"{time[0][1:]}, {en}", f"{time[1][1:]}, {fr}"
        return join(say(clause), time)

    def timed_clause(self, frame: Frame, kind: str = "", subject: Nominal | None = None) -> Pair:
        """A clause and perhaps its time, in both languages."""
        return self.timed(self.clause(frame, subject, kind), frame)
