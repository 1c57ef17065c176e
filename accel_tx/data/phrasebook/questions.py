"""Sentence patterns that ask, order, exclaim or greet."""

from collections.abc import Callable

from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.descriptions import SMALL_THINGS
from accel_tx.data.phrasebook.english import english_clause, english_forms, english_question
from accel_tx.data.phrasebook.facts import COST, PRICED
from accel_tx.data.phrasebook.frames import BACKGROUND, DEFINITELY, FUTURE, HABIT, NOW, PAST, PURPOSEFUL
from accel_tx.data.phrasebook.french import conjugate, french_clause, french_np
from accel_tx.data.phrasebook.grammar import Clause, Nominal, NounPhrase, Pair, VerbPhrase
from accel_tx.data.phrasebook.lexicon import DETERMINERS
from accel_tx.data.phrasebook.phrases import PRONOUNS, YOU, Writer, join, render, transitive_verbs
from accel_tx.data.phrasebook.statements import sentence

_ASKED_PRONOUNS = tuple(PRONOUNS[key] for key in ("you", "you", "you", "he", "she", "they m"))
WHO = Nominal("who", "qui", g.IL, "m")


def question(*parts: Pair) -> Pair:
    """The parts, closed by a question mark; French puts a space before it."""
    return join(*parts, ("?", " ?"))


def ask(clause: Clause) -> Pair:
    """The clause in question order against "est-ce que"."""
    return english_question(clause), f"est-ce que {french_clause(clause)}"


def asked_about(w: Writer) -> Nominal:
    """The subject of a question: most often "you"."""
    return w.pick(_ASKED_PRONOUNS) if w.chance(0.6) else somebody(w)


def somebody(w: Writer) -> Nominal:
    """A third person whom one may ask about; not one's own family."""
    ways: tuple[Callable[[], Nominal], ...] = (w.person, w.name, w.couple, lambda: w.relative(owners=("your",)))
    return w.pick(ways)()


def yes_no(w: Writer) -> Pair:
    """Do you like this film? Is your brother tired? Can he repair the clock?"""
    subject, kind = asked_about(w), w.pick(("mood", "modal", "now", "habit", "past", "past", "future", "state"))
    if kind == "mood":
        return question(ask(Clause(subject, w.mood(subject), w.pick((g.PRESENT, g.PRESENT, g.PAST_STATE)))))
    if kind == "modal":
        modal = w.pick((g.CAN, g.CAN, g.COULD, g.WANT, g.WOULD_LIKE, g.MUST))
        return question(ask(Clause(subject, w.action(subject, PURPOSEFUL), modal)))
    if kind == "state":
        return question(ask(w.clause(NOW, subject, "state", g.PLAIN)))
    frame = {"now": NOW, "habit": HABIT, "past": PAST, "future": FUTURE}[kind]
    frame = frame if kind == "habit" else frame._replace(objects="plain")
    clause = w.clause(frame, subject, w.pick(("action", "action", "intransitive", "motion", "routine")), g.PLAIN)
    times = frame.days if clause.phrase.verb.reflexive else frame.times
    time = w.pick(times) if times and (kind == "habit" or w.chance(0.3)) else ("", "")
    return question(ask(clause), time)


def wh_question(w: Writer) -> Pair:
    """Why did your sister sell her car? When will they arrive? Where did you find this key?"""
    word, frames, names = w.pick(WH_QUESTIONS)
    frame, subject = w.pick(frames), asked_about(w)
    if names:
        verbs = transitive_verbs(names, subject.role)
        clause = Clause(subject, w.action(subject, DEFINITELY, verbs=verbs), frame.tenses[0])
    else:
        frame = frame._replace(objects="plain")
        clause = w.clause(frame, subject, w.pick(("action", "action", "motion", "intransitive")), g.PLAIN)
    return question(word, ask(clause))


WH_QUESTIONS = (
    (("where ", "où "), (PAST, PAST, FUTURE), "buy, find, hide, meet, learn, see"),
    (("when ", "quand "), (PAST, FUTURE), "buy, sell, visit, send, finish, repair, call, see, begin, prepare"),
    (("why ", "pourquoi "), (NOW, NOW, PAST, BACKGROUND), ""),
)


def who(w: Writer) -> Pair:
    """Who is reading the newspaper?"""
    frame = w.pick((NOW, PAST, PAST, FUTURE))._replace(objects="plain")
    clause = w.clause(frame, WHO, w.pick(("action", "action", "state")), g.PLAIN)
    return question((english_clause(clause), french_clause(clause)))


def what(w: Writer) -> Pair:
    """What are you reading? How many letters have they received?"""
    frame, subject = w.pick((NOW, PAST, PAST, FUTURE)), asked_about(w)
    verb = w.pick(transitive_verbs(ASKABLE, subject.role))
    w.combine(subject.head, verb.en)
    clause = Clause(subject, VerbPhrase(verb), frame.tenses[0])
    if w.chance(0.35):
        return question(("what ", "qu'"), ask(clause))
    noun = w.pick(verb.nouns)
    w.combine(verb.en, noun.en)
    mass = noun.kind in lexicon.MASS_KINDS
    opening = (f"how much {noun.en} ", f"combien de {noun.fr} ")
    if not mass:
        opening = (f"how many {noun.en_plural} ", f"combien de {noun.fr_plural} ")
    clause = clause._replace(phrase=VerbPhrase(verb, object_gender=noun.gender, object_plural=not mass))
    return question(opening, ask(clause))


ASKABLE = "read, write, buy, sell, eat, drink, prepare, draw, choose, bring"


def asking_facts(w: Writer) -> Pair:
    """How much does this coat cost? How old is your brother? Where are my keys?"""
    kind = w.pick(("price", "age", "where"))
    if kind == "price":
        noun = w.pick(PRICED)
        names = ("the", "this", "that") if noun.kind in lexicon.MASS_KINDS else ("the", "this", "that", "this+", "the+")
        subject = w.nominal(w.describe(w.pick(names), noun, 0.3))
        w.combine(noun.en, "cost")
        en = "how much " + english_question(Clause(subject, VerbPhrase(COST), g.PRESENT))
        return question((en, f"combien {conjugate('coûter', 'present', subject.person)} {subject.fr}"))
    subject = w.thing(w.pick(SMALL_THINGS)) if kind == "where" else somebody(w)
    be = "are" if subject.person == g.ILS else "is"
    if kind == "where":
        return question((f"where {be} {subject.en}", f"où {conjugate('être', 'present', subject.person)} {subject.fr}"))
    return question(
        (f"how old {be} {subject.en}", f"quel âge {conjugate('avoir', 'present', subject.person)} {subject.fr}")
    )


def order(w: Writer) -> Pair:
    """Open the window. Please help this child. Do not wash the coat. Let's buy some bread."""
    kind = w.pick(("do", "do", "please", "do not", "let's"))
    subject, slot = PRONOUNS["we"] if kind == "let's" else YOU, g.NOT if kind == "do not" else g.PLAIN
    verb = w.pick(ORDERED)
    phrase = w.action(subject, PURPOSEFUL if verb.en in BRINGING else DEFINITELY, slot, (verb,))
    fr_verb = conjugate(phrase.verb.infinitive, "present", subject.person)
    base = english_forms(phrase.verb.en)["base"] + phrase.tail[0]
    if kind == "do not":
        return sentence((f"do not {base}", f"ne {fr_verb} pas{phrase.tail[1]}"))
    if kind == "please":
        return sentence((f"please {base}", f"{fr_verb}{phrase.tail[1]}, s'il vous plaît"))
    return sentence((f"let's {base}" if kind == "let's" else base, fr_verb + phrase.tail[1]))


BRINGING = frozenset({"buy", "write", "bring", "choose", "prepare", "eat", "send"})  # also what is not there yet
ORDERED = transitive_verbs(
    "open, close, wash, clean, read, write, bring, take, choose, repair, buy, eat, prepare, wait_for, listen_to, help, "
    "call, finish, send, paint, cut, visit, hide"
)


def exclamation(w: Writer) -> Pair:
    """What a beautiful house! What heavy bags!"""
    adjective, noun = w.pick(REMARKABLE)
    w.combine(adjective.en, noun.en)
    plural = w.chance(0.3)
    np = NounPhrase(DETERMINERS["bare+" if plural else "a"], noun, (adjective,))
    fr_what = ("quelle" if noun.gender == "f" else "quel") + "s" * plural
    fr_rest = french_np(np).split(" ", 1)[1]
    return f"what{render(np)[0]}!", f"{fr_what} {fr_rest} !"


REMARKABLE = tuple(
    (adjective, noun)
    for adjective in lexicon.ADJECTIVES
    for noun in adjective.nouns
    if adjective.gradable and noun.kind not in lexicon.MASS_KINDS
    if noun.kind not in lexicon.PERSON_KINDS or adjective.en in ("good", "kind", "intelligent", "famous", "rich")
)


def fixed(w: Writer) -> Pair:
    """A greeting or another phrase that stands by itself."""
    return w.pick(FIXED)


FIXED: tuple[Pair, ...] = (
    ("come in.", "entrez."),
    ("sit down.", "asseyez-vous."),
    ("get up.", "levez-vous."),
    ("hurry up.", "dépêchez-vous."),
    ("good morning.", "bonjour."),
    ("good evening.", "bonsoir."),
    ("good night.", "bonne nuit."),
    ("good luck!", "bonne chance !"),
    ("thank you.", "merci."),
    ("thank you very much.", "merci beaucoup."),
    ("you are welcome.", "je vous en prie."),
    ("how are you?", "comment allez-vous ?"),
    ("see you tomorrow.", "à demain."),
    ("see you soon.", "à bientôt."),
    ("of course.", "bien sûr."),
    ("excuse me.", "excusez-moi."),
    ("have a good trip!", "bon voyage !"),
    ("it does not matter.", "ça ne fait rien."),
    ("please help me.", "aidez-moi, s'il vous plaît."),
    ("please speak more slowly.", "parlez plus lentement, s'il vous plaît."),
)
