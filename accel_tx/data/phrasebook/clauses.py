"""Sentence patterns with a subordinate clause: relatives, reasons, conditions, reports."""

from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.descriptions import mood_clause, quality_clause
from accel_tx.data.phrasebook.facts import COLD, HOT, RAIN, SNOW, WEATHER
from accel_tx.data.phrasebook.frames import (
    BACKGROUND,
    DEFINITELY,
    FREQUENT,
    FUTURE,
    NOW,
    PAST,
    PURPOSEFUL,
    Frame,
    object_pool,
    pairs,
)
from accel_tx.data.phrasebook.grammar import Clause, Nominal, NounPhrase, Pair, VerbPhrase
from accel_tx.data.phrasebook.lexicon import DETERMINERS, Noun, Verb, parse_verb, parse_verbs
from accel_tx.data.phrasebook.phrases import (
    FEELINGS,
    INVARIANT_PAST,
    IT,
    PRONOUNS,
    Writer,
    join,
    render,
    say,
    transitive_verbs,
)
from accel_tx.data.phrasebook.statements import sentence, some_phrase

AND, BUT = (" and ", " et "), (", but ", ", mais ")
BECAUSE, THAT, WHEN, COMMA = (" because ", " parce que "), (" that ", " que "), (" when ", " quand "), (", ", ", ")

# --- relative clauses -------------------------------------------------------------------------------------------------


def relative_subject(w: Writer) -> Pair:
    """The woman who is reading the newspaper is very tired; I know the man who sold this house."""
    head = w.person(("the", "the", "the+"))
    who = head._replace(en="who", fr="qui")
    frame = w.pick((NOW, PAST, FREQUENT))
    slot = None if frame is FREQUENT else g.PLAIN
    inner = say(w.clause(frame, who, w.pick(("action", "action", "motion", "intransitive")), slot))
    en, fr = join((head.en, head.fr), (" ", " "), inner)
    if w.chance(0.6):
        tenses = (g.PRESENT, g.PAST_STATE) if frame is PAST else (g.PRESENT,)
        return sentence(mood_clause(w, head._replace(en=en, fr=fr), tenses))
    subject, (verb, tense) = w.subject(), w.pick(ENCOUNTERS)
    w.combine(subject.head, verb.en, head.head)
    return sentence(
        say(Clause(subject, VerbPhrase(verb, (f" {en}", f" {fr}")), tense, w.pick((g.PLAIN, g.PLAIN, g.NOT))))
    )


ENCOUNTERS = (
    (parse_verb("know | connaître"), g.PRESENT),
    (parse_verb("look_for | chercher"), g.PROGRESSIVE),
    (parse_verb("meet | rencontrer"), g.PAST),
    (parse_verb("see | voir"), g.PAST),
)


def gap(w: Writer, noun: Noun, frame: Frame, subject: Nominal, verb: Verb, plural: bool) -> Clause:
    """The clause after "that": its object is the noun before it, and so governs the participle."""
    w.combine(subject.head, verb.en, noun.en)
    return Clause(subject, VerbPhrase(verb, object_gender=noun.gender, object_plural=plural), frame.tenses[0])


def relative_object(w: Writer) -> Pair:
    """The letter that she wrote was too long; this is the car that my brother sold."""
    frame, subject = w.pick((NOW, PAST, PAST)), w.subject()
    verb = w.pick(GAP_VERBS)
    if subject.role not in verb.roles or (frame is NOW and "e" not in verb.uses):
        verb = w.pick(transitive_verbs("write, draw, read, wash"))
    if verb.en == "read" and frame is PAST and subject.person != g.IL:
        frame = NOW
    noun = w.pick([noun for noun in verb.nouns if noun in lexicon.PREDICATES_OF])
    plural = noun.kind not in lexicon.MASS_KINDS and w.chance(0.3)
    inner = say(gap(w, noun, frame, subject, verb, plural))
    np = NounPhrase(DETERMINERS["the+" if plural else "the"], noun)
    if not lexicon.PREDICATES_OF[noun] or w.chance(0.3):
        return sentence(("these are", "ce sont") if plural else ("this is", "c'est"), render(np), THAT, inner)
    adjective, head = w.pick(lexicon.PREDICATES_OF[noun]), w.nominal(np)
    w.combine(adjective.en, noun.en)
    en, fr = join((head.en, head.fr), THAT, inner)
    subject, tense = head._replace(en=en, fr=fr), g.PRESENT if frame is NOW else g.PAST_STATE
    slot = w.pick((g.PLAIN, g.PLAIN, g.NOT))
    return sentence(say(Clause(subject, w.predicate(adjective, subject, slot), tense, slot)))


GAP_VERBS = transitive_verbs(
    "read, write, buy, sell, prepare, wash, open, watch, look_for, find, lose, carry, bring, choose, listen_to, "
    "repair, build, paint, draw, visit, send, hide, receive, explain"
)

# --- reasons ----------------------------------------------------------------------------------------------------------


def excuse(w: Writer) -> Pair:
    """My brother is not washing the car because he is tired."""
    frame = w.pick((NOW, PAST, PAST, FUTURE))
    subject = w.subject()
    verbs = transitive_verbs(EFFORTS, subject.role)
    modal = w.chance(0.3)
    phrase = w.action(subject, frame._replace(objects="definite"), g.NOT, verbs)
    main = Clause(subject, phrase, g.CAN if modal else frame.tenses[0], g.NOT)
    again = w.pronoun(subject)
    late = w.chance(0.2)
    why = w.pick(FEELINGS[5:7]) if late or again.person == g.VOUS else w.feel(again, lexicon.EXCUSES)
    return sentence(
        say(main), BECAUSE, say(Clause(again, why, g.PAST_STATE if frame is PAST and not modal else g.PRESENT))
    )


EFFORTS = (
    "write, buy, prepare, wash, clean, bring, help, wait_for, listen_to, learn, repair, drive, paint, visit, finish"
)


def reason(w: Writer) -> Pair:
    """She bought the dress because it was beautiful; he cannot carry the box because it is too heavy."""
    verb, noun, adjectives, present, slot = w.pick(REASONS)
    adjective = w.pick(adjectives)
    subject = w.name() if verb.en in INVARIANT_PAST else w.subject(adult="youth" not in verb.roles)
    w.combine(subject.head, verb.en, noun.en)
    w.combine(adjective.en, noun.en)
    np = w.determine(noun, object_pool(verb, noun, DEFINITELY, slot), subject, 0, owned=False)
    past = present is None or w.chance(0.6)
    main = Clause(subject, VerbPhrase(verb, render(np)), g.PAST if past or present is None else present, slot)
    it = PRONOUNS[("they " if np.determiner.plural else "it ") + (noun.gender or "m")]
    why = Clause(it, w.predicate(adjective, it), g.PAST_STATE if past else g.PRESENT)
    return sentence(say(main), BECAUSE, say(why))


REASONS = tuple(  # besides the past, a tense of the present may fit
    (verb, noun, fitting, present, slot)
    for names, adjectives, present, slot in (
        ("buy", "beautiful pretty good interesting funny famous fast modern", g.WOULD_LIKE, g.PLAIN),
        ("buy", "expensive slow big", g.CAN, g.NOT),
        ("wash, clean", "dirty", g.MUST, g.PLAIN),
        ("repair", "old broken", g.MUST, g.PLAIN),
        ("sell", "old slow big small", g.WOULD_LIKE, g.PLAIN),
        ("read, watch, listen to, visit", "interesting funny beautiful famous good", g.WOULD_LIKE, g.PLAIN),
        ("read, finish, watch, listen to", "boring difficult long", None, g.NOT),
        ("eat, drink", "delicious hot fresh good", g.WOULD_LIKE, g.PLAIN),
        ("eat, drink", "cold", None, g.NOT),
        ("carry", "heavy", g.CAN, g.NOT),
        ("understand", "difficult strange long", g.CAN, g.NOT),
    )
    for verb in transitive_verbs(names)
    for noun in verb.nouns
    if (fitting := tuple(a for a in lexicon.PREDICATES_OF.get(noun, ()) if a.en in adjectives.split()))
)

# --- conditions and times ---------------------------------------------------------------------------------------------


def when_future(w: Writer) -> Pair:
    """When my sister comes back from the market, we will prepare the meal."""
    first = w.subject()
    second = w.pick((*SPEAKERS, w.pronoun(first))) if w.chance(0.4) else w.somebody_else(first)
    if w.chance(0.5):
        event = w.action(first, DEFINITELY, verbs=transitive_verbs("finish, find, receive, sell", first.role))
        act = w.going(second) if w.chance(0.5) else w.action(second, PURPOSEFUL)
    else:
        event, act = w.pick((w.motion, w.motion, w.routine))(first, EVENT), w.action(second, PURPOSEFUL)
    when = say(Clause(first, event, g.WHEN_FUTURE))
    main = say(Clause(second, act, g.FUTURE))
    if w.chance(0.65):
        return sentence(("when ", "quand "), when, COMMA, main)
    return sentence(main, WHEN, when)


SPEAKERS = tuple(PRONOUNS[key] for key in ("I", "we", "you"))
EVENT = Frame((g.PRESENT,), use="x")


def condition(w: Writer) -> Pair:
    """If it rains, we will stay at the hotel; if I had more time, I would read this book."""
    subject, real = w.subject(), w.chance(0.5)
    means, names = w.pick(CONDITIONS)
    if means in WEATHER:
        first, main = IT, subject
        real = real or means in (COLD, HOT)
    else:
        first, main = subject, w.pronoun(subject)
    if names:
        phrase = w.action(main, PURPOSEFUL._replace(objects="wanted"), verbs=transitive_verbs(names, main.role))
    else:
        phrase = w.going(main)
    if_clause = say(Clause(first, means, g.PRESENT if real else g.PAST_STATE))
    return sentence(("if ", "si "), if_clause, COMMA, say(Clause(main, phrase, g.FUTURE if real else g.CONDITIONAL)))


HAVE = parse_verb("have | avoir")
_INDOOR_ACTS = "read, write, clean, prepare, listen to, drink"
_LEISURE_ACTS = "read, write, wash, clean, help, call, learn, repair, paint, draw, visit, finish, listen to, prepare"
CONDITIONS: tuple[tuple[VerbPhrase, str], ...] = (  # and what one would do then; nothing: go somewhere
    *((VerbPhrase(HAVE, tail), "buy, build, visit") for tail in pairs("enough money = assez d'argent")),
    *((VerbPhrase(HAVE, tail), "buy, visit") for tail in pairs("more money = plus d'argent")),
    *(
        (VerbPhrase(HAVE, tail), _LEISURE_ACTS)
        for tail in pairs("enough time = assez de temps; more time = plus de temps")
    ),
    *((VerbPhrase(HAVE, tail), "") for tail in pairs("a car = une voiture; a bike = un vélo")),
    *((weather, _INDOOR_ACTS) for weather in (RAIN, SNOW, COLD)),
    (HOT, "drink, open, wash"),
)

# --- reports ----------------------------------------------------------------------------------------------------------


def reported(w: Writer) -> Pair:
    """She thinks that the film is boring; I do not know if the train has already left."""
    subject = w.subject()
    verb, link, slot = w.pick(REPORTING)
    w.combine(subject.head, verb.en)
    if verb is HOPE:
        inner = say(
            w.clause(FUTURE, w.somebody_else(subject), w.pick(("action", "motion")), g.PLAIN)._replace(tense=g.FUTURE)
        )
    elif w.chance(0.3):
        inner = quality_clause(w, embedded=True)
    elif w.chance(0.3):
        inner = mood_clause(w, w.somebody_else(subject), embedded=True)
    else:
        frame, kind = w.pick((NOW, PAST, PAST, FUTURE)), w.pick(("action", "action", "motion", "intransitive"))
        inner = w.timed(w.clause(frame, w.somebody_else(subject), kind, g.PLAIN), frame, front=False)
    return sentence(say(Clause(subject, VerbPhrase(verb), g.PRESENT, slot)), link, inner)


THINK, SAY, KNOW, HOPE, BELIEVE = parse_verbs(
    "think | penser; say | dire; know | savoir; hope | espérer; believe | croire"
)
REPORTING = (*((verb, THAT, g.PLAIN) for verb in (THINK, SAY, KNOW, HOPE, BELIEVE)), (KNOW, (" if ", " si "), g.NOT))


def said(w: Writer) -> Pair:
    """He said that he was looking for his keys."""
    subject = w.noun_subject()
    again = w.pronoun(subject) if w.chance(0.7) else w.pick((PRONOUNS["we"], PRONOUNS["I"]))
    kind = w.pick(("mood", "progressive", "conditional", "state"))
    if kind == "mood":
        inner = Clause(again, w.mood(again), g.PAST_STATE)
    elif kind == "state":
        inner = Clause(again, w.state(again, PAST), g.PAST_STATE)
    elif kind == "progressive":
        inner = Clause(again, w.action(again, BACKGROUND), g.PAST_PROGRESSIVE)
    else:
        inner = Clause(again, some_phrase(w, again, FUTURE), g.CONDITIONAL)
    w.combine(subject.head, "say")
    return sentence(say(Clause(subject, VerbPhrase(SAY), g.PAST)), THAT, say(inner))
