"""The phrasebook: right in both languages, the same for the same seed, and honest about what it holds out."""

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from accel_tx.data.phrasebook import descriptions, facts, generate
from accel_tx.data.phrasebook import grammar as g
from accel_tx.data.phrasebook import lexicon as lexicon
from accel_tx.data.phrasebook.english import english_forms, english_number, english_question, english_time
from accel_tx.data.phrasebook.french import (
    conjugate,
    finish_french,
    french_infinitive,
    french_number,
    french_time,
    participle,
)
from accel_tx.data.phrasebook.generate import Draft, finish, is_held_out, iter_pairs
from accel_tx.data.phrasebook.grammar import Clause, NounPhrase, Pair, Slot, Tense, VerbPhrase
from accel_tx.data.phrasebook.lexicon import DETERMINERS, NOUNS, parse_verb
from accel_tx.data.phrasebook.phrases import FEELINGS, PRONOUNS, Writer, render, say

WORD = re.compile(r"\w+(?:[-']\w+)*'?")


@pytest.fixture(scope="module")
def train() -> list[Pair]:
    return list(iter_pairs("train", 60_000, seed=1))


@pytest.fixture(scope="module")
def validation() -> list[Pair]:
    return list(iter_pairs("validation", 2_000, seed=2))


@pytest.fixture(scope="module")
def drafts() -> list[Draft]:
    rng = random.Random(3)
    return [generate.draw(rng) for _ in range(40_000)]


# --- the interface ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation"])
def test_longer_request_begins_with_the_same_pairs(split: str) -> None:
    short = list(iter_pairs(split, 200, seed=7))  # type: ignore[arg-type]
    long = list(iter_pairs(split, 500, seed=7))  # type: ignore[arg-type]
    assert len(short) == 200
    assert len(long) == 500
    assert long[:200] == short


def test_first_pairs_never_change_between_versions() -> None:
    """Every run and machine must train on the same corpus: change these only on purpose."""
    assert list(iter_pairs("train", 3, seed=0)) == [
        ("Emma was born on 1 October 1999.", "Emma est née le 1er octobre 1999."),
        (
            "The women who sometimes swim in this river are very proud.",
            "Les femmes qui nagent parfois dans cette rivière sont très fières.",
        ),
        ("How many boats did he sell?", "Combien de bateaux est-ce qu'il a vendus ?"),
    ]


def test_another_seed_gives_other_pairs() -> None:
    assert set(iter_pairs("train", 300, seed=0)) != set(iter_pairs("train", 300, seed=1))


def test_no_source_is_repeated_or_shared_between_splits(train: list[Pair], validation: list[Pair]) -> None:
    sources = {en for en, _ in train}
    held_out_sources = {en for en, _ in validation}
    assert len(sources) == len(train)
    assert len(held_out_sources) == len(validation)
    assert sources.isdisjoint(held_out_sources)


def test_no_pairs_is_a_valid_request() -> None:
    assert list(iter_pairs("train", 0, seed=0)) == []


def test_impossible_requests_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="n_pairs is -1"):
        iter_pairs("train", -1, seed=0)
    with pytest.raises(ValueError, match="split is 'test'"):
        iter_pairs("test", 1, seed=0)  # type: ignore[arg-type]


def test_exhausted_grammar_is_an_error_and_no_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "draw", lambda rng: Draft(("come in.", "entrez."), (), "fixed"))
    pairs = iter_pairs("train", 2, seed=0)
    assert next(pairs) == ("Come in.", "Entrez.")
    with pytest.raises(ValueError, match="after 1 of 2 pairs"):
        next(pairs)


@pytest.mark.slow
def test_two_hundred_thousand_distinct_pairs_are_within_reach() -> None:
    assert len(set(iter_pairs("train", 200_000, seed=0))) == 200_000


# --- what is held out -------------------------------------------------------------------------------------------------


def held_out_phrases() -> Iterator[str]:
    """The held-out adjectives with their nouns, as they stand in a text."""
    for adjective in lexicon.ADJECTIVES:
        for noun in adjective.nouns:
            if is_held_out((adjective.en, noun.en)):
                yield from (f" {adjective.en} {noun.en} ", f" {adjective.en} {noun.en_plural} ")


def padded(text: str) -> str:
    return f" {re.sub('[.,?!]', ' ', text)} "


def test_held_out_descriptions_stand_in_validation_and_never_in_train(
    train: list[Pair], validation: list[Pair]
) -> None:
    phrases = list(held_out_phrases())
    assert len(phrases) > 40
    train_text = "".join(padded(en) for en, _ in train)
    assert [phrase for phrase in phrases if phrase in train_text] == []
    assert sum(phrase in padded(en) for en, _ in validation for phrase in phrases) > 100


@pytest.mark.parametrize(("split", "held_out"), [("train", False), ("validation", True)])
def test_only_validation_sentences_hold_a_held_out_combination(
    split: str, held_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[Pair, Draft] = {}

    def recorded_draw(rng: random.Random, draw: Callable[[random.Random], Draft] = generate.draw) -> Draft:
        draft = draw(rng)
        drawn[finish(draft.text)] = draft
        return draft

    monkeypatch.setattr(generate, "draw", recorded_draw)
    for pair in iter_pairs(split, 300, seed=5):  # type: ignore[arg-type]
        assert any(map(is_held_out, drawn[pair].combinations)) is held_out


def test_noted_combinations_are_visible_in_the_source(drafts: list[Draft]) -> None:
    degrees = {a.en: {a.en, a.comparative, a.superlative} for a in lexicon.ADJECTIVES + lexicon.TRAITS + lexicon.MOODS}
    for draft in drafts[:8_000]:
        text = padded(draft.text[0])
        for word in itertools.chain(*draft.combinations):
            forms = {word, *english_forms(word).values(), *degrees.get(word, ())}
            forms |= {NOUNS[word].en_plural} if word in NOUNS else {"is", "was"} if word == "be" else set()
            assert any(f" {form} " in text for form in forms), (word, draft)


def test_held_out_share_is_between_five_and_eight_percent(drafts: list[Draft]) -> None:
    combinations = {combination for draft in drafts for combination in draft.combinations}
    share = sum(map(is_held_out, combinations)) / len(combinations)
    assert len(combinations) > 5_000
    assert 0.05 < share < 0.08


def test_nearly_every_validation_word_occurs_in_train(train: list[Pair], validation: list[Pair]) -> None:
    for side in (0, 1):
        known = {word for pair in train for word in WORD.findall(pair[side])}
        asked = {word for pair in validation for word in WORD.findall(pair[side])}
        missing = asked - known
        assert len(missing) <= 0.01 * len(asked), sorted(missing)


# --- translation and variety ------------------------------------------------------------------------------------------


def test_same_source_always_has_the_same_translation(train: list[Pair], drafts: list[Draft]) -> None:
    translations = dict(train)
    for draft in drafts:
        en, fr = finish(draft.text)
        assert translations.setdefault(en, fr) == fr


def test_pronouns_take_up_the_gender_and_number_of_their_antecedents() -> None:
    writer = Writer(random.Random(0))
    antecedents = {
        ("the", "actress"): ("she", "elle"),
        ("the", "doctor"): ("he", "il"),
        ("the+", "sister"): ("they", "elles"),
        ("the+", "hero"): ("they", "ils"),
    }
    for (determiner, noun), expected in antecedents.items():
        pronoun = writer.pronoun(writer.nominal(NounPhrase(DETERMINERS[determiner], NOUNS[noun])))
        assert (pronoun.en, pronoun.fr) == expected


def test_no_pattern_exceeds_twelve_percent(drafts: list[Draft]) -> None:
    counts = Counter(draft.pattern for draft in drafts)
    assert set(counts) == {pattern.__name__ for pattern in generate.PATTERNS}
    assert max(counts.values()) < 0.12 * len(drafts)


def test_lengths_reach_from_two_to_nearly_forty_words(train: list[Pair]) -> None:
    lengths = Counter(len(en.split()) for en, _ in train)
    assert min(lengths) == 2
    assert set(range(2, 36)) <= set(lengths)
    assert max(lengths) <= 45
    assert sum(lengths[n] for n in range(5, 16)) > 0.75 * len(train)


def test_no_noun_is_named_like_a_kind_of_nouns() -> None:
    assert set(lexicon.KINDS).isdisjoint(NOUNS)


# --- the surface ------------------------------------------------------------------------------------------------------

VOWEL = "[aàâeéèêiîoôœuûAÉEIOU]"
MUTE_H = "(?:homme|hommes|hôpital|hôtel|histoire|horloge|heure|Henri)"
ASPIRATED = "(?:héros|hibou|hiboux|haie|harpe|huit|onze)"
FORBIDDEN_IN_FRENCH = (
    rf"\b(?:le|la|je|ne|de|que|se|me) {VOWEL}(?!nze\b)",
    rf"\b(?:le|la|ne|de|que|ma|ta|sa|ce) {MUTE_H}\b",
    rf"[ldn]'{ASPIRATED}\b",
    rf"\b(?:du|au|ma|ta|sa|ce|beau|nouveau) {VOWEL}",
    rf"\b(?:le|ce|un|mon|son|notre|votre) vieux (?:{VOWEL}|{MUTE_H})",
    r"\b(?:de|à) les? (?!\w+r\b|\w+re\b)",  # "de le lire" has a pronoun
    r"\b[Ss]i ils?\b",
    r"\b(?:de|des|du) (?:du|des|un|une)\b",
    r"\bpas (?:des|un|une) ",
    r"\b(?!nous|vous)(\w+) \1\b",
    r"  |^ | $|\*|_",
    r"[^ ][?!:;]| [.,]",
    r"’|“|”",
    r"\b(?:les|des|ces|mes|ses|nos|vos|leurs|deux|trois) \w*(?:al|eau)\b",
    r"^[a-zéàê]",
)
FORBIDDEN_IN_ENGLISH = (
    r"\b[Aa] [aeiouAEIOU]",
    r"\b[Aa]n [^aeiouAEIOU]",
    r"^(?:He|She|It) (?:have|do|are|were|go|want|need|like|\w+ing)\b",
    r"\b(?:I|we|you|they) (?:has|does|is|was(?<!I was))\b",
    r"\bcan not\b",
    r"\b(?:is|are|was|were|am) (?:wanting|knowing|liking|needing|having|understanding)\b",
    r"\bmuch (?!does)\w+s\b",
    r"\bmany (?:bread|milk|water|money|soup|rice)\b",
    r"\b(\w+) \1\b",
    r"  |^ | $|_",
    r" [?!.,;:]",
    r"^[a-z]",
)


@pytest.mark.parametrize("rule", FORBIDDEN_IN_FRENCH)
def test_french_has_no(rule: str, train: list[Pair]) -> None:
    pattern = re.compile(rule)
    assert [fr for _, fr in train[:20_000] if pattern.search(fr)][:5] == []


@pytest.mark.parametrize("rule", FORBIDDEN_IN_ENGLISH)
def test_english_has_no(rule: str, train: list[Pair]) -> None:
    pattern = re.compile(rule)
    assert [en for en, _ in train[:20_000] if pattern.search(en)][:5] == []


def test_negative_sources_have_negative_translations_and_no_others(train: list[Pair]) -> None:
    negative = re.compile(r"\b(?:not|cannot|never|no)\b")
    ne = re.compile(r"\b(?:[Nn]e |[Nn]')")
    for en, fr in train[:20_000]:
        assert bool(negative.search(en)) == bool(ne.search(fr)), (en, fr)
        if ne.search(fr):
            assert re.search(r"\b(?:pas|jamais|plus)\b|ne fait rien", fr), (en, fr)


def test_question_marks_and_full_stops_agree(train: list[Pair]) -> None:
    for en, fr in train[:20_000]:
        assert en[-1] == fr[-1]
        assert en[-1] in ".?!"
        assert fr.endswith(".") or fr[-2] == " "


# --- facts of the two languages ---------------------------------------------------------------------------------------

PERSONS = ("je", "il", "nous", "vous", "ils")


@pytest.mark.parametrize(
    ("infinitive", "form", "expected"),
    [
        ("être", "present", "suis est sommes êtes sont"),
        ("être", "imperfect", "étais était étions étiez étaient"),
        ("avoir", "future", "aurai aura aurons aurez auront"),
        ("aller", "present", "vais va allons allez vont"),
        ("aller", "conditional", "irais irait irions iriez iraient"),
        ("faire", "present", "fais fait faisons faites font"),
        ("voir", "future", "verrai verra verrons verrez verront"),
        ("boire", "imperfect", "buvais buvait buvions buviez buvaient"),
        ("prendre", "present", "prends prend prenons prenez prennent"),
        ("comprendre", "present", "comprends comprend comprenons comprenez comprennent"),
        ("revenir", "future", "reviendrai reviendra reviendrons reviendrez reviendront"),
        ("manger", "present", "mange mange mangeons mangez mangent"),
        ("manger", "imperfect", "mangeais mangeait mangions mangiez mangeaient"),
        ("commencer", "imperfect", "commençais commençait commencions commenciez commençaient"),
        ("acheter", "present", "achète achète achetons achetez achètent"),
        ("acheter", "future", "achèterai achètera achèterons achèterez achèteront"),
        ("appeler", "present", "appelle appelle appelons appelez appellent"),
        ("préférer", "present", "préfère préfère préférons préférez préfèrent"),
        ("préférer", "future", "préférerai préférera préférerons préférerez préféreront"),
        ("nettoyer", "present", "nettoie nettoie nettoyons nettoyez nettoient"),
        ("envoyer", "future", "enverrai enverra enverrons enverrez enverront"),
        ("finir", "present", "finis finit finissons finissez finissent"),
        ("perdre", "present", "perds perd perdons perdez perdent"),
        ("pouvoir", "conditional", "pourrais pourrait pourrions pourriez pourraient"),
        ("oublier", "imperfect", "oubliais oubliait oubliions oubliiez oubliaient"),
        ("peindre", "present", "peins peint peignons peignez peignent"),
        ("recevoir", "present", "reçois reçoit recevons recevez reçoivent"),
        ("courir", "future", "courrai courra courrons courrez courront"),
    ],
)
def test_french_conjugation(infinitive: str, form: str, expected: str) -> None:
    assert [conjugate(infinitive, form, person) for person in range(5)] == expected.split()


@pytest.mark.parametrize(
    ("infinitive", "gender", "plural", "expected"),
    [("écrire", "f", True, "écrites"), ("prendre", "m", True, "pris"), ("vendre", "f", False, "vendue"),
     ("choisir", "m", False, "choisi"), ("apprendre", "f", True, "apprises"), ("naître", "f", False, "née")],
)  # fmt: skip
def test_french_participles(infinitive: str, gender: lexicon.Gender, plural: bool, expected: str) -> None:
    assert participle(infinitive, gender, plural) == expected


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("carry", "carry carries carried carried carrying"),
        ("go", "go goes went gone going"),
        ("swim", "swim swims swam swum swimming"),
        ("put", "put puts put put putting"),
        ("write", "write writes wrote written writing"),
        ("travel", "travel travels travelled travelled travelling"),
        ("see", "see sees saw seen seeing"),
        ("play", "play plays played played playing"),
    ],
)
def test_english_verb_forms(verb: str, expected: str) -> None:
    assert list(english_forms(verb).values()) == expected.split()


def test_particle_stays_behind_the_inflected_verb() -> None:
    assert english_forms("come back")["past"] == "came back"
    assert english_forms("get dressed")["third"] == "gets dressed"


ADJECTIVE = {adjective.en: adjective for adjective in lexicon.ADJECTIVES}


@pytest.mark.parametrize(
    ("determiner", "adjectives", "noun", "preposition", "expected"),
    [
        ("a", "old", "man", "", ("An old man", "Un vieil homme")),
        ("a", "beautiful", "tree", "", ("A beautiful tree", "Un bel arbre")),
        ("this", "new", "hotel", "", ("This new hotel", "Ce nouvel hôtel")),
        ("this", "", "hotel", "", ("This hotel", "Cet hôtel")),
        ("this", "", "hero", "", ("This hero", "Ce héros")),
        ("the", "", "man", "", ("The man", "L'homme")),
        ("the+", "", "hedge", "", ("The hedges", "Les haies")),
        ("the", "", "hedge", "de", ("The hedge", "De la haie")),
        ("the", "", "hero", "à", ("The hero", "Au héros")),
        ("the", "", "hospital", "à", ("The hospital", "À l'hôpital")),
        ("the+", "", "child", "à", ("The children", "Aux enfants")),
        ("the", "", "office", "de", ("The office", "Du bureau")),
        ("the", "former", "king", "de", ("The former king", "De l'ancien roi")),
        ("my", "", "friend", "", ("My friend", "Mon ami")),
        ("her", "", "idea", "", ("Her idea", "Son idée")),
        ("his", "", "harp", "", ("His harp", "Sa harpe")),
        ("their+", "", "horse", "", ("Their horses", "Leurs chevaux")),
        ("some", "", "money", "", ("Some money", "De l'argent")),
        ("some", "fresh", "bread", "", ("Some fresh bread", "Du pain frais")),
        ("some", "", "money", "de", ("Some money", "D'argent")),
        ("some+", "beautiful", "flower", "", ("Some beautiful flowers", "De belles fleurs")),
        ("some+", "white", "flower", "", ("Some white flowers", "Des fleurs blanches")),
        ("some+", "former", "student", "", ("Some former students", "D'anciens étudiants")),
        ("two+", "local", "newspaper", "", ("Two local newspapers", "Deux journaux locaux")),
        ("the", "big red", "bag", "", ("The big red bag", "Le grand sac rouge")),
        ("a", "wooden", "chair", "", ("A wooden chair", "Une chaise en bois")),
        ("lot", "", "orange juice", "", ("A lot of orange juice", "Beaucoup de jus d'orange")),
    ],
)
def test_noun_phrases(determiner: str, adjectives: str, noun: str, preposition: str, expected: Pair) -> None:
    np = NounPhrase(DETERMINERS[determiner], NOUNS[noun], tuple(ADJECTIVE[word] for word in adjectives.split()))
    en, fr = render(np, ("", preposition))
    assert finish((en[1:], fr[1:])) == expected


CAR = (" a car", " une voiture")


@pytest.mark.parametrize(
    ("who", "verb", "tense", "slot", "expected"),
    [
        ("she", "go | aller", g.PAST, g.NOT, ("She did not go", "Elle n'est pas allée")),
        ("they f", "arrive | arriver", g.PERFECT, g.ALREADY, ("They have already arrived", "Elles sont déjà arrivées")),
        ("she", "read | lire", g.PERFECT, g.NOT_YET, ("She has not read yet", "Elle n'a pas encore lu")),
        ("he", "get_up | se_lever", g.PAST, g.NEVER, ("He never got up", "Il ne s'est jamais levé")),
        ("we", "rest | se_reposer", g.GOING_TO, g.PLAIN, ("We are going to rest", "Nous allons nous reposer")),
        ("I", "get_dressed | s'habiller", g.PROGRESSIVE, g.PLAIN, ("I am getting dressed", "Je m'habille")),
        ("I", "like | aimer", g.PAST_STATE, g.PLAIN, ("I liked", "J'aimais")),
        ("you", "work | travailler", g.USED_TO, g.PLAIN, ("You used to work", "Vous travailliez")),
        ("he", "read | lire", g.PRESENT, g.OFTEN, ("He often reads", "Il lit souvent")),
        ("he", "read | lire", g.PRESENT, g.NO_LONGER, ("He no longer reads", "Il ne lit plus")),
        ("they m", "have | avoir", g.PRESENT, g.NOT, ("They do not have", "Ils n'ont pas")),
        ("she", "swim | nager", g.CAN, g.NOT, ("She cannot swim", "Elle ne peut pas nager")),
        ("he", "leave | partir", g.WOULD_LIKE, g.PLAIN, ("He would like to leave", "Il voudrait partir")),
        ("he", "leave | partir", g.WANT, g.NOT, ("He does not want to leave", "Il ne veut pas partir")),
        ("I", "live | habiter", g.SINCE, g.PLAIN, ("I have been living", "J'habite")),
        ("it f", "take_place | avoir_lieu", g.FUTURE, g.PLAIN, ("It will take place", "Elle aura lieu")),
        ("he", "come_back | revenir", g.WHEN_FUTURE, g.PLAIN, ("He comes back", "Il reviendra")),
    ],
)  # fmt: skip
def test_clauses(who: str, verb: str, tense: Tense, slot: Slot, expected: Pair) -> None:
    assert finish(say(Clause(PRONOUNS[who], VerbPhrase(parse_verb(verb)), tense, slot))) == expected


def test_object_pronoun_precedes_the_verb_and_governs_the_participle() -> None:
    phrase = VerbPhrase(parse_verb("lose | perdre"), (" it", ""), "la", "f")
    assert finish(say(Clause(PRONOUNS["I"], phrase, g.PAST, g.NOT)))[1] == "Je ne l'ai pas perdue"
    assert finish(say(Clause(PRONOUNS["he"], phrase, g.FUTURE, g.NOT)))[1] == "Il ne la perdra pas"
    assert finish(say(Clause(PRONOUNS["he"], phrase, g.WANT, g.NOT)))[1] == "Il ne veut pas la perdre"
    assert french_infinitive(phrase, g.IL) == "la perdre"


def test_pronoun_after_a_preposition_does_not_contract() -> None:
    phrase = VerbPhrase(parse_verb("read | lire"), (" it", ""), "le", "m")
    assert finish_french(f"avant de {french_infinitive(phrase, g.IL)}") == "Avant de le lire"


def test_indefinite_object_becomes_de_after_a_negation() -> None:
    car = NounPhrase(DETERMINERS["a"], NOUNS["car"])
    assert render(car, negated=True)[1] == " de voiture"
    assert render(car, ("", "de"), negated=True)[1] == " de une voiture"  # avoir besoin d'une voiture
    assert render(NounPhrase(DETERMINERS["the"], NOUNS["car"]), negated=True)[1] == " la voiture"


def test_questions_put_the_auxiliary_first() -> None:
    phrase = VerbPhrase(parse_verb("want | vouloir"), CAR)
    assert english_question(Clause(PRONOUNS["he"], phrase, g.PRESENT)) == "does he want a car"
    assert english_question(Clause(PRONOUNS["he"], phrase, g.PAST_STATE)) == "did he want a car"
    assert english_question(Clause(PRONOUNS["they m"], FEELINGS[0], g.PAST_STATE)) == "were they hungry"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("si il pleut", "S'il pleut"),
        ("si elle dort", "Si elle dort"),
        ("parce que ils ont la écharpe", "Parce qu'ils ont l'écharpe"),
        ("est-ce que Alice se habille", "Est-ce qu'Alice s'habille"),
        ("le *héros ne oublie pas le *hibou", "Le héros n'oublie pas le hibou"),
        ("je habite à côté de Henri", "J'habite à côté d'Henri"),
        ("elle aime le œuf", "Elle aime l'œuf"),
        ("la *haie de *onze heures", "La haie de onze heures"),
    ],
)
def test_elision(text: str, expected: str) -> None:
    assert finish_french(text) == expected


@pytest.mark.parametrize(
    ("n", "en", "fr"),
    [(8, "eight", "*huit"), (21, "twenty-one", "vingt et un"), (71, "seventy-one", "soixante et onze"),
     (77, "seventy-seven", "soixante-dix-sept"), (80, "eighty", "quatre-vingts"), (81, "eighty-one", "quatre-vingt-un"),
     (82, "eighty-two", "quatre-vingt-deux"), (91, "ninety-one", "quatre-vingt-onze"),
     (99, "ninety-nine", "quatre-vingt-dix-neuf")],
)  # fmt: skip
def test_numbers(n: int, en: str, fr: str) -> None:
    assert (english_number(n), french_number(n)) == (en, fr)


@pytest.mark.parametrize(
    ("hour", "minute", "en", "fr"),
    [(3, 0, "three o'clock", "trois heures"), (3, 30, "half past three", "trois heures et demie"),
     (12, 45, "a quarter to one", "une heure moins le quart"), (11, 45, "a quarter to twelve", "midi moins le quart"),
     (12, 0, "noon", "midi"), (12, 30, "half past twelve", "midi et demi"), (1, 10, "ten past one", "une heure dix")],
)  # fmt: skip
def test_times_of_day(hour: int, minute: int, en: str, fr: str) -> None:
    assert (english_time(hour, minute), french_time(hour, minute)) == (en, fr)


def test_first_of_the_month_is_premier_and_prices_have_a_space() -> None:
    rng = random.Random(0)
    dates = [finish(facts.date(Writer(rng))) for _ in range(2000)]
    assert all((" on 1 " in en) == (" le 1er " in fr) for en, fr in dates)
    assert sum(" le 1er " in fr for _, fr in dates) > 20
    prices = [finish(facts.price(Writer(rng))) for _ in range(2000)]
    assert any("1,200 euros" in en and "1 200 euros" in fr for en, fr in prices)


def test_good_has_its_own_degrees_in_both_languages() -> None:
    rng = random.Random(0)
    found = {finish(descriptions.superlative(Writer(rng))) for _ in range(4000)}
    best = [(en, fr) for en, fr in found if " best " in en]
    assert best
    assert all("meilleur" in fr for _, fr in best)
    assert not any("plus bon" in fr for _, fr in found)
