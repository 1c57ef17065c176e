"""Sentence patterns of one clause: actions, states, and two verbs in a row.

Every pattern takes a `Writer` and returns both texts without capitals, elisions or a/an, which are settled at the end.
"""

from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.english import english_forms
from accel_tx.data.phrasebook.frames import (
    DEFINITELY,
    FRAMES,
    FREQUENT,
    FUTURE,
    HABIT,
    NOW,
    PAST,
    PERFECT,
    PURPOSEFUL,
    Frame,
    pairs,
)
from accel_tx.data.phrasebook.french import french_infinitive
from accel_tx.data.phrasebook.grammar import Clause, Nominal, NounPhrase, Pair, Slot, VerbPhrase
from accel_tx.data.phrasebook.lexicon import DETERMINERS, NOUNS, Noun, noun_list, parse_verb, parse_verbs
from accel_tx.data.phrasebook.phrases import BE, IT, YOU, Writer, join, render, say, transitive_verbs


def sentence(*parts: Pair) -> Pair:
    """The parts, closed by a full stop."""
    return join(*parts, (".", "."))


def infinitive(phrase: VerbPhrase, person: int) -> Pair:
    """The bare infinitives with what follows, a space before them."""
    return f" {english_forms(phrase.verb.en)['base']}{phrase.tail[0]}", f" {french_infinitive(phrase, person)}"


def gerund(phrase: VerbPhrase, person: int) -> Pair:
    """The English -ing form against the French infinitive."""
    return f" {english_forms(phrase.verb.en)['ing']}{phrase.tail[0]}", f" {french_infinitive(phrase, person)}"


def some_phrase(w: Writer, subject: Nominal, frame: Frame, slot: Slot = g.PLAIN) -> VerbPhrase:
    """An action, a movement or a routine."""
    return w.pick((w.action, w.action, w.action, w.motion, w.routine))(subject, frame, slot)


# --- actions and states -----------------------------------------------------------------------------------------------


def action(w: Writer) -> Pair:
    """An old gardener is not reading this book."""
    frame = w.pick(FRAMES)
    if frame in (NOW, PAST) and w.chance(0.1):
        return sentence(w.timed(w.clause(frame, w.person(("a", "two+", "three+")), "action", g.PLAIN), frame))
    return sentence(w.timed_clause(frame, "action"))


def intransitive(w: Writer) -> Pair:
    """The children were playing in the garden; they worked until midnight."""
    if w.chance(0.2):
        subject, frame = w.subject(), w.pick((PAST, FUTURE))
        phrase = w.intransitive(subject, FUTURE)
        until = w.pick(UNTIL) if phrase.tail[0] else ("", "")  # nobody smiles until midnight
        return sentence(say(Clause(subject, phrase, frame.tenses[0])), until)
    return sentence(w.timed_clause(w.pick(FRAMES), "intransitive"))


UNTIL = pairs(
    "until midnight = jusqu'à minuit; until noon = jusqu'à midi; until six o'clock = jusqu'à six heures; "
    "for two hours = pendant deux heures; for three hours = pendant trois heures; all day = toute la journée"
)


def motion(w: Writer) -> Pair:
    """My sister came back from the market by bike."""
    return sentence(w.timed_clause(w.pick((NOW, HABIT, PAST, PAST, PERFECT, FUTURE)), "motion"))


def routine(w: Writer) -> Pair:
    """She got up at half past six."""
    return sentence(w.timed_clause(w.pick((NOW, HABIT, HABIT, PAST, PERFECT, FUTURE)), "routine"))


def state(w: Writer) -> Pair:
    """He has two brothers; we need a new coat."""
    return sentence(say(w.clause(w.pick((NOW, NOW, PAST)), kind="state")))


# --- two verbs in a row -----------------------------------------------------------------------------------------------

MODALS = (
    (g.CAN, (g.PLAIN, g.PLAIN, g.NOT, g.NOT, g.NO_LONGER)),
    (g.MUST, (g.PLAIN, g.PLAIN, g.PLAIN, g.NOT)),
    (g.SHOULD, (g.PLAIN, g.PLAIN, g.NOT)),
    (g.WOULD_LIKE, (g.PLAIN,)),
    (g.WANT, (g.PLAIN, g.PLAIN, g.NOT, g.NO_LONGER, g.STILL)),
)


def modal(w: Writer) -> Pair:
    """She cannot open the door; I would like to go to the theatre."""
    tense, slots = w.pick(MODALS)
    subject, slot = w.subject(), w.pick(slots)
    return sentence(say(Clause(subject, some_phrase(w, subject, PURPOSEFUL, slot), tense, slot)))


def control(w: Writer) -> Pair:
    """He has decided to sell his car; they like walking in the forest."""
    verb, tenses, names = w.pick(CONTROL)
    subject, (tense, slot) = w.subject(), w.pick(tenses)
    w.combine(subject.head, verb.en)
    link = f" {verb.preposition}" if verb.preposition else ""
    if verb.en in ("like", "hate"):
        tail = gerund(pastime(w, subject), subject.person)
    elif names:
        aim = w.action(subject, PURPOSEFUL, verbs=transitive_verbs(names, subject.role))
        tail = join((" to", link), infinitive(aim, subject.person))
    else:
        tail = join((" to", link), infinitive(some_phrase(w, subject, PURPOSEFUL), subject.person))
    return sentence(say(Clause(subject, VerbPhrase(verb, tail), tense, slot)))


def pastime(w: Writer, subject: Nominal) -> VerbPhrase:
    """Something that one does as a habit: reading novels, walking in the forest."""
    if w.chance(0.3):
        return w.intransitive(subject, HABIT)
    verb = w.pick(transitive_verbs("read, write, eat, drink, prepare, watch, draw", subject.role))
    noun = w.pick(verb.nouns)
    w.combine(subject.head, verb.en, noun.en)
    name = "bare" if noun.kind in lexicon.MASS_KINDS else "bare+"
    return VerbPhrase(verb, render(w.describe(name, noun)))


CONTROL = tuple(
    (parse_verb(row), tenses, names)
    for row, tenses, names in (
        ("decide | décider_de", ((g.PAST, g.PLAIN), (g.PERFECT, g.PLAIN)), ""),
        ("refuse | refuser_de", ((g.PAST, g.PLAIN), (g.PRESENT, g.PLAIN)), ""),
        (
            "forget | oublier_de",
            ((g.PAST, g.PLAIN), (g.PERFECT, g.PLAIN), (g.PAST, g.NOT)),
            "close, buy, wash, bring, send, call, clean, take, finish, prepare",
        ),
        (
            "begin | commencer_à",
            ((g.PAST, g.PLAIN), (g.PERFECT, g.PLAIN)),
            "read, write, eat, wash, clean, repair, paint, draw, build, learn, prepare, look_for",
        ),
        ("hope | espérer", ((g.PRESENT, g.PLAIN),), ""),
        ("like | aimer", ((g.PRESENT, g.PLAIN), (g.PRESENT, g.NOT), (g.PAST_STATE, g.PLAIN)), ""),
        ("hate | détester", ((g.PRESENT, g.PLAIN),), ""),
    )
)


def generic(w: Writer) -> Pair:
    """I like coffee, but I prefer tea."""
    subject, verb, group = w.subject(), w.pick(TASTES), w.pick(TASTY)
    noun, other = w.pick(group), w.pick(group)
    w.combine(subject.head, verb.en, noun.en)
    slot = w.pick((g.PLAIN, g.PLAIN, g.NOT)) if verb.en == "like" else g.PLAIN
    first = say(Clause(subject, VerbPhrase(verb, all_of(noun)), g.PRESENT, slot))
    if verb.en != "like" or slot is g.NOT or other is noun or w.chance(0.4):
        return sentence(first)
    w.combine("prefer", other.en)
    second = say(Clause(w.pronoun(subject), VerbPhrase(TASTES[-1], all_of(other)), g.PRESENT))
    return sentence(first, (", but ", ", mais "), second)


def all_of(noun: Noun) -> Pair:
    """The noun in general: bare in English, with the article in French."""
    return render(NounPhrase(DETERMINERS["all" if noun.kind in lexicon.MASS_KINDS else "all+"], noun))


TASTES = parse_verbs("like | aimer; like | aimer; hate | détester; prefer | préférer")
TASTY = (
    noun_list("fruit cake food"),
    noun_list("drink"),
    noun_list("novel film poem song"),
    noun_list("dog cat horse bird"),
)


def judgement(w: Writer) -> Pair:
    """It is difficult to learn this poem."""
    judgements, names = w.pick(JUDGEMENTS)
    phrase = w.action(YOU, DEFINITELY, verbs=transitive_verbs(names))
    link = w.pick([pair for pair in judgements if pair[0] not in phrase.tail[0]])  # not "easy to do the easy exercise"
    degree = w.pick(((" very", " très"), ("", ""), ("", "")))
    tail = join(degree, link, (" to", " de"), infinitive(phrase, g.IL))
    tense, slot = w.pick((g.PRESENT, g.PRESENT, g.PAST_STATE)), w.pick((g.PLAIN, g.PLAIN, g.NOT))
    return sentence(say(Clause(IT, VerbPhrase(BE, tail), tense, slot)))


JUDGEMENTS = (
    (
        pairs("difficult = difficile; easy = facile"),
        "repair, find, learn, draw, open, explain, paint, build, understand, clean, drive, choose",
    ),
    (
        pairs("important = important; useful = utile"),
        "help, read, understand, learn, finish, wash, clean, listen_to, explain, close",
    ),
)


def before(w: Writer) -> Pair:
    """She drank some tea before going to the market."""
    frame = w.pick((PAST, PAST, FUTURE, FREQUENT))
    subject, slot = w.subject(), g.PLAIN if frame is not FREQUENT else w.pick((g.OFTEN, g.ALWAYS, g.SOMETIMES))
    verbs = transitive_verbs("drink, eat, read, listen_to, wash" if frame is FREQUENT else FINISHED_ACTS, subject.role)
    main = Clause(subject, w.action(subject, frame, slot, verbs), frame.tenses[0], slot)
    if frame is not FREQUENT and w.chance(0.6):
        other_verbs = [verb for verb in transitive_verbs(FINISHED_ACTS, subject.role) if verb.en != main.phrase.verb.en]
        later = w.action(subject, FUTURE, verbs=other_verbs)
    else:
        later = GO_TO_BED if w.chance(0.5) else w.going(subject)
    return sentence(say(main), (" before", " avant de"), gerund(later, subject.person))


FINISHED_ACTS = (
    "read, write, buy, eat, drink, prepare, wash, clean, open, close, help, call, repair, paint, visit, send, finish, "
    "draw"
)
GO_TO_BED = VerbPhrase(parse_verb("go_to_bed | se_coucher"))


def purpose(w: Writer) -> Pair:
    """He is going to the market to buy some cheese."""
    place, verbs = w.pick(PURPOSES)
    frame = w.pick((NOW, PAST, FUTURE, FREQUENT))
    subject = w.subject(gendered=frame is PAST)
    slot = w.pick((g.OFTEN, g.SOMETIMES)) if frame is FREQUENT else g.PLAIN
    go = w.going(subject, place)
    aim = infinitive(w.action(subject, PURPOSEFUL, verbs=verbs), subject.person)
    return sentence(say(Clause(subject, go, frame.tenses[0], slot)), (" to", " pour"), aim)


PURPOSES = tuple(
    (NOUNS[place], parse_verbs(rows))
    for place, rows in (
        ("market", "buy|acheter|p||fruit food flower; sell|vendre|p||fruit cheese honey jam"),
        ("bakery", "buy|acheter|||bread cake sandwich; help|aider|||friend sister brother"),
        (
            "library",
            "read|lire|||book newspaper novel; look_for|chercher|||book novel; help|aider|||student child friend",
        ),
        ("station", "take|prendre|||train; wait_for|attendre|||train uncle aunt friend sister brother grandmother"),
        ("school", "learn|apprendre|||song poem; explain|expliquer|||problem lesson; see|voir|||teacher friend"),
        ("hospital", "see|voir|||doctor nurse friend grandfather mother aunt; help|aider|||doctor nurse friend sister"),
        ("restaurant", "eat|manger|||soup meat cheese cake; meet|rencontrer|||friend actress doctor"),
        (
            "farm",
            "buy|acheter|||egg milk cheese honey; see|voir|||horse cow goat rabbit; help|aider|||farmer uncle brother",
        ),
    )
)


def without(w: Writer) -> Pair:
    """She left without closing the door."""
    subject, frame = w.subject(gendered=True), w.pick((PAST, PAST, FUTURE))
    verb = w.pick(LEAVING)
    phrase = w.action(subject, DEFINITELY, verbs=OMITTED)
    w.combine(subject.head, verb.en)
    return sentence(
        say(Clause(subject, VerbPhrase(verb), frame.tenses[0])), (" without", " sans"), gerund(phrase, subject.person)
    )


LEAVING = parse_verbs("leave | partir; leave | partir; come_back | revenir")
OMITTED = parse_verbs(
    "close | fermer | 1 | | door window; finish | finir | 1 | | meal exercise letter; "
    "wait_for | attendre | | | elder kin; find | trouver | 1 | | key umbrella hat; "
    "call | appeler | | | elder kin; help | aider | | | kin neighbour"
)
