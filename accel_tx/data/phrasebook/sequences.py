"""Sentence patterns that set clauses side by side, and pronouns that take up what was named before."""

from itertools import permutations

from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.clauses import AND, BECAUSE, BUT, COMMA, ENCOUNTERS, EVENT, WHEN
from accel_tx.data.phrasebook.frames import BACKGROUND, FREQUENCIES, FREQUENT, FUTURE, NOW, PAST, PAST_TIMES, PURPOSEFUL
from accel_tx.data.phrasebook.grammar import Clause, Nominal, Pair, VerbPhrase
from accel_tx.data.phrasebook.lexicon import KINDS, noun_list, parse_verbs
from accel_tx.data.phrasebook.phrases import PRONOUNS, Writer, fits, join, render, say, transitive_verbs
from accel_tx.data.phrasebook.statements import sentence

# --- side by side -----------------------------------------------------------------------------------------------------


def coordination(w: Writer) -> Pair:
    """My brother is washing the car and my sister is reading a novel."""
    frame = w.pick((NOW, PAST, PAST, FUTURE, FREQUENT))
    subject = w.subject(gendered=frame is PAST)
    first_kind, second_kind = w.pick(DIFFERENT_KINDS)
    first, second = w.clause(frame, subject, first_kind), w.clause(frame, w.somebody_else(subject), second_kind)
    contrast = first.slot.negative != second.slot.negative
    return sentence(say(first), BUT if contrast else (", and ", ", et "), say(second))


DIFFERENT_KINDS = tuple(permutations(("action", "action", "intransitive", "motion"), 2))


def simultaneous(w: Writer) -> Pair:
    """While she was sleeping, her brother was cleaning the kitchen; I was reading when the bus arrived."""
    # Not "she" or "he": in "while she was eating, my sister ..." both would be taken for one person.
    first = w.noun_subject() if w.chance(0.7) else w.pick(SPEAKERS)
    second = w.somebody_else(first)
    back = say(w.clause(BACKGROUND, first, w.pick(("action", "action", "intransitive")), g.PLAIN))
    if w.chance(0.5):
        return sentence(("while ", "pendant que "), back, COMMA, say(w.clause(BACKGROUND, second, "action", g.PLAIN)))
    if w.chance(0.5):
        event = Clause(second, w.motion(second, EVENT), g.PAST)
    else:
        event = Clause(second, w.action(second, PAST, verbs=transitive_verbs(EVENTS, second.role)), g.PAST)
    return sentence(back, WHEN, say(event))


SPEAKERS = tuple(PRONOUNS[key] for key in ("I", "we", "you"))
EVENTS = "find, hear, see, break, lose, open, close, call"


def narrative(w: Writer) -> Pair:
    """A chain of actions in the past: the longest sentences, up to forty words."""
    subject = other = w.pick((lambda: w.person(), lambda: w.relative(), w.name))()
    opening = ("", "")
    if w.chance(0.4):
        other = w.somebody_else(subject)
        opening = join(("when ", "quand "), say(Clause(other, w.motion(other, EVENT), g.PAST)), COMMA)
    elif w.chance(0.6):
        time = w.pick(PAST_TIMES)
        opening = join((time[0][1:], time[1][1:]), COMMA)
    steps = past_actions(w, subject)
    main = chain(subject, steps)
    if steps[-1] in END_OF_DAY and w.chance(0.6):
        again = w.pronoun(subject)
        why = Clause(again, w.feel(again, lexicon.EXCUSES[:2]), g.PAST_STATE)
        return sentence(opening, main, BECAUSE, say(why))
    if w.chance(0.35):
        return sentence(opening, main)
    background = w.clause(BACKGROUND, w.somebody_else(subject, other), w.pick(("action", "intransitive")))
    return sentence(opening, main, (" while ", " pendant que "), say(background))


def past_actions(w: Writer, subject: Nominal) -> list[VerbPhrase]:
    """Going somewhere, doing one to four things, and often going to bed."""
    steps = [w.going(subject)] if w.chance(0.6) else []
    for verbs in w.pick(DAYS):
        steps.append(w.action(subject, PURPOSEFUL, verbs=transitive_verbs(verbs, subject.role)))
    if len(steps) < 2 or w.chance(0.7):
        steps.append(w.pick(END_OF_DAY))
    return steps


def chain(subject: Nominal, steps: list[VerbPhrase]) -> Pair:
    """The subject with several verb phrases in the past: went out, bought some bread and came back."""
    texts = [say(Clause(subject._replace(en="", fr=""), step, g.PAST)) for step in steps]
    en, fr = [text[0].strip() for text in texts], [text[1].strip() for text in texts]
    return f"{subject.en} {', '.join(en[:-1])} and {en[-1]}", f"{subject.fr} {', '.join(fr[:-1])} et {fr[-1]}"


# Lists without a verb in common, and without any that could be a present as well as a past.
_ERRANDS = "buy, find, meet, help, choose, repair, see, wash"
_PLEASURES = "write, draw, learn, eat, drink, finish"
_VISITS = "open, visit, listen_to, watch, clean, sell, paint"
_LAST_THINGS = "close, call, prepare, send, hide, break, explain, forget, lose"
DAYS: tuple[tuple[str, ...], ...] = (
    (_ERRANDS,),
    (_ERRANDS, _PLEASURES),
    (_ERRANDS, _VISITS, _LAST_THINGS),
    (_ERRANDS, _PLEASURES, _VISITS, _LAST_THINGS),
)
END_OF_DAY = tuple(map(VerbPhrase, parse_verbs("rest | se_reposer; go_to_bed | se_coucher")))

# --- pronouns as objects ----------------------------------------------------------------------------------------------


def taken_up(w: Writer) -> Pair:
    """My brother bought a car, but he has not washed it yet."""
    first_verb, second_verb, noun = w.pick(SEQUELS)
    subject = w.noun_subject(adult=not all("youth" in verb.roles for verb in (first_verb, second_verb)))
    w.combine(subject.head, first_verb.en, noun.en)
    w.combine(subject.head, second_verb.en, noun.en)
    mass = noun.kind in lexicon.MASS_KINDS
    name = w.pick(("a", "a", "this") if "1" in first_verb.uses else ("a", "a", "a", "this", "two+", "some+"))
    name = "some" if mass else name
    np = w.describe(name, noun)
    first = say(Clause(subject, VerbPhrase(first_verb, render(np)), g.PAST))
    plural = np.determiner.plural
    clitic = "les" if plural else "la" if noun.gender == "f" else "le"
    tense, slot, link = w.pick(SEQUEL_TENSES)
    sequel = VerbPhrase(second_verb, (" them" if plural else " it", ""), clitic, noun.gender, plural)
    return sentence(first, link, say(Clause(w.pronoun(subject), sequel, tense, slot)))


SEQUEL_TENSES = (
    (g.FUTURE, g.PLAIN, AND),
    (g.GOING_TO, g.PLAIN, AND),
    (g.PERFECT, g.NOT_YET, BUT),
    (g.PERFECT, g.NOT_YET, BUT),
    (g.WANT, g.NOT, BUT),
    (g.CAN, g.NOT, BUT),
    (g.FUTURE, g.NOT, BUT),
)
SEQUELS = tuple(
    (first, second, noun)
    for first in transitive_verbs("buy, find, receive, choose, prepare, bring")
    for second in transitive_verbs("read, eat, drink, wash, repair, paint, open, listen to")
    for noun in first.nouns
    if noun in second.nouns
)


def people_taken_up(w: Writer) -> Pair:
    """Paul knows this doctor and he often sees her."""
    subject = w.subject(adult=True)
    other = w.somebody_else(subject)
    verb = w.pick(FREQUENTED)
    w.combine(subject.head, "know", other.head)
    w.combine(verb.en, other.head)
    first = say(Clause(subject, VerbPhrase(ENCOUNTERS[0][0], (f" {other.en}", f" {other.fr}")), g.PRESENT))
    plural = other.person == g.ILS
    clitic = "les" if plural else "la" if other.gender == "f" else "le"
    them = " them" if plural else " her" if other.gender == "f" else " him"
    slot = w.pick(FREQUENCIES)
    phrase = VerbPhrase(verb, (them, ""), clitic, other.gender, plural)
    again = w.pronoun(subject)
    return sentence(first, BUT if slot.negative else AND, say(Clause(again, phrase, g.PRESENT, slot)))


FREQUENTED = parse_verbs(
    "see | voir; help | aider; call | appeler; meet | rencontrer; invite | inviter; listen_to | écouter"
)


def giving(w: Writer) -> Pair:
    """The teacher gave a book to the girl; she lends me her car."""
    verb = w.pick(GIVING)
    tense, slot = w.pick(GIVING_TENSES)
    subject, noun = w.subject(), w.pick(verb.nouns)
    w.combine(subject.head, verb.en, noun.en)
    what = render(w.object_phrase(verb, noun, subject, NOW, slot), negated=slot.negative)
    if w.chance(0.45):
        en_to, fr_to = w.pick(RECIPIENTS if subject.person in (g.JE, g.NOUS) else RECIPIENTS + LISTENERS)
        en_to = "him" if what[0].startswith(" her ") and en_to == "her" else en_to  # not "lend her her book"
        return sentence(say(Clause(subject, VerbPhrase(verb, join((f" {en_to}", ""), what), fr_to), tense, slot)))
    receiver = w.pick(KINDS[w.pick(("kin", "adult", "youth"))])
    if not fits(subject, verb, receiver):
        receiver = noun_list("child")[0] if subject.role == "adult" else noun_list("teacher")[0]
    to = render(w.determine(receiver, "kin" if receiver.kind == "kin" else "person", subject), (" to", "à"))
    return sentence(say(Clause(subject, VerbPhrase(verb, join(what, to)), tense, slot)))


GIVING_TENSES = (
    *(
        (tense, g.PLAIN)
        for tense in (g.PROGRESSIVE, g.PAST, g.PAST, g.FUTURE, g.GOING_TO, g.CAN, g.WOULD_LIKE, g.PERFECT)
    ),
    *((tense, g.NOT) for tense in (g.PAST, g.FUTURE)),
)
RECIPIENTS = (("him", "lui"), ("her", "lui"), ("them", "leur"))
LISTENERS = (("me", "me"), ("us", "nous"))
GIVING = parse_verbs(
    "give | donner | | | fruit cake flower book toy ball pencil key money water bread; "
    "show | montrer | | | photo house garden watch letter car dress book; "
    "lend | prêter | 1 | | car bike umbrella book pencil coat money phone guitar; "
    "send | envoyer | | | letter message photo present money ticket flower"
)
