"""The French realiser: conjugation, agreement, clitics and negation, articles, numbers, elision.

Elision is left to `finish_french`, which sees the finished sentence: `le arbre` may pass between functions.
Contractions (du, au) are settled at once, since only an article contracts and never a pronoun.
"""

import re
from functools import cache

from accel_tx.data.phrasebook.grammar import (
    IL,
    ILS,
    JE,
    NOUS,
    PLURAL_PERSONS,
    VOUS,
    Clause,
    NounPhrase,
    Slot,
    Tense,
    VerbPhrase,
)
from accel_tx.data.phrasebook.lexicon import Adjective, Gender, Noun, Verb, french_plural

VOWELS = frozenset("aàâeéèêiîoôœuûhAÉEIOUH")  # an aspirated h is written "*h"

# --- verbs ------------------------------------------------------------------------------------------------------------

_ENDINGS = {  # je, il, nous, vous, ils
    "er": ("e", "e", "ons", "ez", "ent"),
    "ir": ("is", "it", "issons", "issez", "issent"),
    "re": ("s", "", "ons", "ez", "ent"),
    "imperfect": ("ais", "ait", "ions", "iez", "aient"),
    "conditional": ("ais", "ait", "ions", "iez", "aient"),
    "future": ("ai", "a", "ons", "ez", "ont"),
}
# Present of je, il, nous, vous, ils; stem of the future; past participle.
_IRREGULAR = {
    infinitive: (tuple(present), future, participle)
    for infinitive, *present, future, participle in (
        row.split()
        for row in """\
        être suis est sommes êtes sont ser été
        avoir ai a avons avez ont aur eu
        aller vais va allons allez vont ir allé
        faire fais fait faisons faites font fer fait
        voir vois voit voyons voyez voient verr vu
        prendre prends prend prenons prenez prennent prendr pris
        mettre mets met mettons mettez mettent mettr mis
        venir viens vient venons venez viennent viendr venu
        lire lis lit lisons lisez lisent lir lu
        écrire écris écrit écrivons écrivez écrivent écrir écrit
        boire bois boit buvons buvez boivent boir bu
        dire dis dit disons dites disent dir dit
        ouvrir ouvre ouvre ouvrons ouvrez ouvrent ouvrir ouvert
        pouvoir peux peut pouvons pouvez peuvent pourr pu
        vouloir veux veut voulons voulez veulent voudr voulu
        devoir dois doit devons devez doivent devr dû
        savoir sais sait savons savez savent saur su
        croire crois croit croyons croyez croient croir cru
        connaître connais connaît connaissons connaissez connaissent connaîtr connu
        partir pars part partons partez partent partir parti
        dormir dors dort dormons dormez dorment dormir dormi
        courir cours court courons courez courent courr couru
        conduire conduis conduit conduisons conduisez conduisent conduir conduit
        construire construis construit construisons construisez construisent construir construit
        recevoir reçois reçoit recevons recevez reçoivent recevr reçu
        peindre peins peint peignons peignez peignent peindr peint
        rire ris rit rions riez rient rir ri
        naître nais naît naissons naissez naissent naîtr né
        pleuvoir pleus pleut pleuvons pleuvez pleuvent pleuvr plu
        envoyer envoie envoie envoyons envoyez envoient enverr envoyé""".splitlines()
    )
}
_PREFIXES = ("ap", "com", "re", "sou")  # apprendre, comprendre, revenir, sourire
_ETRE_VERBS = frozenset("aller venir revenir arriver partir rester naître".split())
Agreement = tuple[Gender, bool]
_REFLEXIVE = ("me", "se", "nous", "vous", "se")


@cache
def _parts(infinitive: str) -> tuple[tuple[str, ...], str, str]:
    """Five present forms, the stem of the future, and the past participle."""
    if infinitive in _IRREGULAR:
        return _IRREGULAR[infinitive]
    for prefix in _PREFIXES:
        root = infinitive.removeprefix(prefix)
        if root != infinitive and root in _IRREGULAR:
            present, future, participle = _IRREGULAR[root]
            return tuple(prefix + form for form in present), prefix + future, prefix + participle
    stem, group = infinitive[:-2], infinitive[-2:]
    if group == "er":
        return _er_parts(stem)
    present = tuple(stem + ending for ending in _ENDINGS[group])
    return present, infinitive.removesuffix("e"), stem + ("i" if group == "ir" else "u")


def _er_parts(stem: str) -> tuple[tuple[str, ...], str, str]:
    """The same for a verb in -er, with its spelling changes: achète, appelle, préfère, nettoie, mangeons."""
    strong = stem  # before a silent e
    if match := re.fullmatch(r"(.*)[eé]([b-df-hj-np-tv-z])", stem):
        strong = stem + match[2] if stem.endswith("appel") else f"{match[1]}è{match[2]}"
    elif re.search(r"[ou]y$", stem):
        strong = stem[:-1] + "i"
    soft = re.sub("c$", "ç", re.sub("g$", "ge", stem))  # before a and o
    stems = {JE: strong, IL: strong, NOUS: soft, VOUS: stem, ILS: strong}
    present = tuple(stems[person] + ending for person, ending in enumerate(_ENDINGS["er"]))
    return present, (stem if re.search("é[a-z]$", stem) else strong) + "er", stem + "é"


@cache
def conjugate(infinitive: str, form: str, person: int) -> str:
    """One simple form of a verb: present, imperfect, future or conditional."""
    present, future, _ = _parts(infinitive)
    if form == "present":
        return present[person]
    if form != "imperfect":
        return future + _ENDINGS[form][person]
    stem = "ét" if infinitive == "être" else present[NOUS].removesuffix("ons")
    if person in (NOUS, VOUS):
        stem = re.sub("ç$", "c", re.sub("ge$", "g", stem))
    return stem + _ENDINGS["imperfect"][person]


@cache
def participle(infinitive: str, gender: Gender, plural: bool) -> str:
    """The past participle, agreed."""
    form = _parts(infinitive)[2] + ("e" if gender == "f" else "")
    return form + "s" if plural and not form.endswith("s") else form


def takes_etre(verb: Verb) -> bool:
    """Whether the compound past takes être, so that the participle shows the gender of the subject."""
    return verb.reflexive or verb.infinitive in _ETRE_VERBS


@cache
def verb_group(
    verb: Verb,
    tense: Tense,
    slot: Slot,
    subject: tuple[int, Gender],
    clitic: str = "",
    agreement: Agreement = ("", False),
) -> str:
    """Negation, pronoun, finite verb, adverb, and then the infinitive or participle with the fixed complement.

    `subject` is a person and a gender; `agreement` the gender and plural of an object before the verb.
    """
    person, gender = subject
    clitic = _REFLEXIVE[person] if verb.reflexive else clitic
    helper, form = tense.fr_helper, tense.fr_form
    inner_clitic = rest = ""
    if not helper:
        finite = conjugate(verb.infinitive, form, person)
    elif helper == "aux" and takes_etre(verb):
        finite, rest = conjugate("être", form, person), participle(verb.infinitive, gender, person in PLURAL_PERSONS)
    elif helper == "aux":
        finite, rest = conjugate("avoir", form, person), participle(verb.infinitive, *agreement)
    else:
        finite, rest = conjugate(helper, form, person), verb.infinitive
        clitic, inner_clitic = "", clitic
    words = ("ne" if slot.negative else "", clitic, finite, slot.fr, inner_clitic, rest, verb.complement)
    return " ".join(word for word in words if word)


def french_clause(clause: Clause) -> str:
    """The declarative clause, which also follows "est-ce que"."""
    subject, phrase, tense, slot = clause
    agreement = (phrase.object_gender, phrase.object_plural)
    group = verb_group(phrase.verb, tense, slot, (subject.person, subject.gender), phrase.clitic, agreement)
    return f"{subject.fr} {group}{phrase.tail[1]}"


def french_infinitive(phrase: VerbPhrase, person: int) -> str:
    """The infinitive with its pronoun and what follows; a reflexive pronoun agrees with whoever acts."""
    clitic = _REFLEXIVE[person] if phrase.verb.reflexive else phrase.clitic
    words = [word for word in (clitic, phrase.verb.infinitive, phrase.verb.complement) if word]
    return " ".join(words) + phrase.tail[1]


# --- noun phrases -----------------------------------------------------------------------------------------------------

_CONTRACTIONS = {("à", "le"): "au", ("à", "les"): "aux", ("de", "le"): "du", ("de", "les"): "des"}


@cache
def adjective_form(adjective: Adjective, gender: Gender, plural: bool, next_word: str = "") -> str:
    """The agreed adjective; `next_word` decides between nouveau and nouvel."""
    form = adjective.feminine if gender == "f" else adjective.masculine
    if adjective.invariable:
        return form
    if plural:
        return french_plural(form)
    return adjective.before_vowel if gender != "f" and next_word[:1] in VOWELS else form


@cache
def _core(noun: Noun, plural: bool, adjectives: tuple[Adjective, ...]) -> str:
    """Noun and adjectives in French order, without the determiner."""
    head = noun.fr_plural if plural else noun.fr
    before = [adjective_form(a, noun.gender, plural, head) for a in adjectives if a.before_noun]
    after = [adjective_form(a, noun.gender, plural) for a in adjectives if not a.before_noun]
    return " ".join([*before, head, *after])


def french_np(np: NounPhrase, preposition: str = "", negated: bool = False) -> str:
    """Preposition, determiner, adjectives and noun; `negated` marks the object of a negated verb other than être.

    A preposition may be long ("à côté de"): its last word contracts. "des" becomes "de" before an adjective.
    """
    determiner, noun, adjectives = np
    core = _core(noun, determiner.plural, adjectives)
    before_vowel = core[0] in VOWELS
    if noun.gender == "f":
        article = determiner.feminine_before_vowel if before_vowel else determiner.feminine
    else:
        article = determiner.masculine_before_vowel if before_vowel else determiner.masculine
    if negated and determiner.indefinite and not preposition:
        article = "de"
    elif article == "des" and adjectives and adjectives[0].before_noun:
        article = "de"
    if not preposition:
        return f"{article} {core}"
    opening, _, link = preposition.rpartition(" ")
    if link == "de" and determiner.partitive:
        article = ""
    elif (link, article) in _CONTRACTIONS and not (article == "le" and before_vowel):
        link, article = _CONTRACTIONS[link, article], ""
    return " ".join(word for word in (opening, link, article, core) if word)


_ELIDED = r"(?<=\b[jlmnsd]e )|(?<=\bque )|(?<=\bla )|(?<=\bsi )(?=ils?\b)"
_ELISION = re.compile(rf"[aei] (?=[{''.join(sorted(VOWELS))}])(?:{_ELIDED})")  # the rarest condition comes first


def finish_french(text: str) -> str:
    """Elide, drop the marks against elision, and capitalise."""
    text = _ELISION.sub("'", text).replace("*", "")
    return text[0].upper() + text[1:]


# --- numbers ----------------------------------------------------------------------------------------------------------

_UNITS = (
    "zéro un deux trois quatre cinq six sept *huit neuf dix *onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf"
).split()
_TENS = "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()


def french_number(n: int) -> str:
    """A number from 0 to 99 in words; 70 to 79 and 90 to 99 count on from sixty and eighty."""
    if n < 20:
        return _UNITS[n]
    tens = _TENS[n // 10 - 2]
    unit = n % 10 + (10 if n // 10 in (7, 9) else 0)
    if unit == 0:
        return tens + "s" if n == 80 else tens
    link = " et " if unit in (1, 11) and n < 80 else "-"
    return tens + link + _UNITS[unit].lstrip("*")


def french_time(hour: int, minute: int) -> str:
    """A time of day as `english_time` takes it: trois heures et demie; 12 is midi."""
    hour = hour % 12 + 1 if minute == 45 else hour
    hours = "midi" if hour == 12 else "une heure" if hour == 1 else f"{french_number(hour)} heures"
    half = "et demi" if hour == 12 else "et demie"
    part = {0: "", 10: "dix", 15: "et quart", 20: "vingt", 30: half, 45: "moins le quart"}[minute]
    return f"{hours} {part}".rstrip()
