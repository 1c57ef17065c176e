"""The words of the embedded phrasebook: compact tables and the parsers that read them.

Notation of the tables:
- `_` is a space inside an entry (`look_for`);
- `one/many` gives an irregular plural, in either language (`child/children`);
- `*` opens a French word that refuses elision (aspirated h: `le *héros`, against `l'homme`) and is dropped at the end;
- a list of nouns may name whole kinds (`clothing`) or single nouns (`door`).

An English word has one French translation in each construction, so that the source alone decides the translation.
"""

import re
from dataclasses import dataclass
from typing import Literal

Gender = Literal["m", "f", ""]  # "" where English does not tell: I, we, you


@dataclass(frozen=True, eq=False, slots=True)
class Noun:
    """A noun with its forms on both sides; `kind` groups nouns that fit the same verbs."""

    en: str
    en_plural: str
    fr: str
    fr_plural: str
    gender: Gender
    kind: str


@dataclass(frozen=True, eq=False, slots=True)
class Adjective:
    """An adjective with its English degrees, its French forms, and the nouns it may describe."""

    en: str
    comparative: str
    gradable: bool
    masculine: str
    feminine: str
    before_vowel: str  # masculine: nouvel, vieil
    before_noun: bool
    nouns: tuple[Noun, ...]

    @property
    def superlative(self) -> str:
        if self.en == "good":
            return "best"
        return f"most {self.en}" if self.comparative.startswith("more ") else self.comparative[:-1] + "st"

    @property
    def invariable(self) -> bool:
        return self.masculine.startswith("en ")


@dataclass(frozen=True, eq=False, slots=True)
class Verb:
    """A verb: English base with its particle, French infinitive with what follows it, and what goes with it.

    `uses` has one letter a construction: e progressive, h habit, x perfect, f future, v done on purpose (so f too).
    Of objects: i indefinite as a habit, 1 singular only, p plural only,
    d definite only, n never with a possessive.
    `roles` are the subjects it takes, `nouns` its objects or places.
    """

    en: str
    infinitive: str
    complement: str = ""
    preposition: str = ""
    reflexive: bool = False
    uses: str = ""
    roles: tuple[str, ...] = ()
    nouns: tuple[Noun, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Determiner:
    """A determiner; an `indefinite` one becomes "de" after a negation, a `partitive` one vanishes after "de"."""

    en: str
    masculine: str
    feminine: str
    masculine_before_vowel: str
    feminine_before_vowel: str
    plural: bool
    indefinite: bool
    partitive: bool


def _words(entry: str) -> str:
    return entry.replace("_", " ")


def _rows(table: str) -> list[list[str]]:
    """The cells of each line of a table; a line that ends in a backslash goes on."""
    return [[cell.strip() for cell in row.split("|")] for row in table.strip().splitlines()]


# --- nouns ------------------------------------------------------------------------------------------------------------

_NOUNS = {
    "adult": "man/men homme m, woman/women femme f, teacher professeur m, doctor médecin m, baker boulanger m, "
    "farmer fermier m, gardener jardinier m, waitress serveuse f, student étudiant m, neighbour voisin m, king roi m, "
    "queen reine f, actress actrice f, hero/heroes *héros m, nurse infirmière f",
    "youth": "boy garçon m, girl fille f, child/children enfant m",
    "elder": "father père m, mother mère f, grandfather grand-père/grands-pères m, "
    "grandmother grand-mère/grands-mères f",
    "kin": "brother frère m, sister sœur f, son fils m, daughter fille f, uncle oncle m, aunt tante f, friend ami m",
    "pet": "dog chien m, cat chat m, rabbit lapin m",
    "beast": "horse cheval m, bird oiseau m, cow vache f, goat chèvre f, mouse/mice souris f, owl *hibou/*hiboux m",
    "vehicle": "car voiture f, bike vélo m, lorry camion m, boat bateau m",
    "transport": "train train m, bus bus m, plane avion m",
    "text": "book livre m, letter lettre f, newspaper journal m, novel roman m, story histoire f, poem poème m, "
    "message message m",
    "show": "film film m, song chanson f, concert concert m",
    "clothing": "dress robe f, coat manteau m, shirt chemise f, hat chapeau m, skirt jupe f, jacket veste f, "
    "scarf/scarves écharpe f",
    "fruit": "apple pomme f, orange orange f, tomato/tomatoes tomate f, carrot carotte f, cherry cerise f, egg œuf m",
    "dish": "cake gâteau m, sandwich sandwich m, meal repas m",
    "food": "bread pain m, cheese fromage m, meat viande f, soup soupe f, rice riz m, jam confiture f, honey miel m",
    "drink": "coffee café m, tea thé m, water eau f, milk lait m, orange_juice jus_d'orange m",
    "alcohol": "wine vin m, beer bière f",
    "mass": "money argent m, music musique f",
    "thing": "bag sac m, box boîte f, bottle bouteille f, umbrella parapluie m, key clé f, watch montre f, "
    "phone téléphone m, computer ordinateur m, lamp lampe f, glass verre m, plate assiette f, knife/knives couteau m, "
    "pencil crayon m, photo photo f, present cadeau m, ball ballon m, toy jouet m, ticket billet m",
    "furniture": "table table f, chair chaise f, bed lit m, clock horloge f, piano piano m, guitar guitare f, "
    "harp *harpe f",
    "part": "door porte f, window fenêtre f, wall mur m",
    "room": "kitchen cuisine f, bedroom chambre f, garden jardin m, house maison f",
    "venue": "school école f, market marché m, station gare f, museum musée m, hospital hôpital m, hotel hôtel m, "
    "library bibliothèque f, restaurant restaurant m, theatre théâtre m, office bureau m, church église f, "
    "bakery boulangerie f, farm ferme f",
    "outdoors": "park parc m, village village m, town ville f, street rue f, forest forêt f, castle château m, "
    "island île f, shop magasin m",
    "landmark": "bridge pont m, hedge *haie f, river rivière f, beach plage f",
    "plant": "tree arbre m, flower fleur f",
    "topic": "question question f, answer réponse f, problem problème m, idea idée f, lesson leçon f, "
    "exercise exercice m",
}
MASS_KINDS = frozenset({"food", "drink", "alcohol", "mass"})
PERSON_KINDS = frozenset({"adult", "youth", "elder", "kin"})


def _english_plural(noun: str) -> str:
    if re.search(r"(s|x|sh|ch)$", noun):
        return noun + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", noun) + "s"


def french_plural(word: str) -> str:
    """The regular French plural of a noun or adjective, those in -al and -eau included."""
    if word[-1] in "sxz":
        return word
    if word.endswith("al"):
        return word[:-1] + "ux"
    return word + ("x" if word.endswith("eau") else "s")


def _parse_noun(entry: str, kind: str) -> Noun:
    en, fr, gender = entry.split()
    en, _, en_plural = _words(en).partition("/")
    fr, _, fr_plural = _words(fr).partition("/")
    en_plural, fr_plural = en_plural or _english_plural(en), fr_plural or french_plural(fr)
    return Noun(en, en_plural, fr, fr_plural, "f" if gender == "f" else "m", kind)


KINDS = {kind: tuple(_parse_noun(entry, kind) for entry in row.split(", ")) for kind, row in _NOUNS.items()}
NOUNS = {noun.en: noun for nouns in KINDS.values() for noun in nouns}
NAMES: tuple[tuple[str, Gender], ...] = (  # the same in both languages
    *((name, "m") for name in ("Paul", "Thomas", "Henri", "Louis", "Antoine")),
    *((name, "f") for name in ("Marie", "Alice", "Claire", "Sophie", "Emma")),
)


def noun_list(row: str) -> tuple[Noun, ...]:
    """The nouns named by a row of kinds and single nouns."""
    return tuple(noun for name in row.split() for noun in KINDS.get(name) or (NOUNS[_words(name)],))


# --- adjectives -------------------------------------------------------------------------------------------------------

# English (with its comparative where it does not take "more"; ! if it has no degrees), French masculine, then feminine
# and the masculine before a vowel where they are irregular, then the nouns. First those that precede a French noun.
_BEFORE = """
big/bigger       | grand                   | kitchen bedroom garden house table bag box window market hotel museum \
                                             castle town park forest island tree bridge
small/smaller    | petit                   | kitchen bedroom garden house table bag box window market hotel museum \
                                             village town park island church boat lamp
little!          | petit                   | youth dog cat bird rabbit
old/older        | vieux vieille vieil     | man woman gardener farmer dog cat horse vehicle coat hat jacket clock \
                                             piano house hotel castle church village bridge tree theatre
young!           | jeune                   | man woman teacher doctor baker farmer actress nurse gardener waitress
new!             | nouveau nouvelle nouvel | vehicle clothing book novel film song watch phone computer lamp piano \
                                             museum hotel school restaurant teacher neighbour
beautiful        | beau belle bel          | house garden castle village town church island beach park tree flower \
                                             song dress bird horse boat photo story poem film
pretty/prettier  | joli                    | dress skirt scarf hat village flower garden
good/better      | bon bonne               | teacher doctor student restaurant hotel book novel film coffee tea wine \
                                             bread cheese soup cake idea answer question
bad!             | mauvais                 | answer idea film student restaurant novel
long/longer      | long longue             | letter novel film poem story street bridge lesson
fat/fatter       | gros grosse             | cat dog rabbit cow mouse
kind/kinder      | gentil gentille         | woman teacher doctor baker waitress neighbour nurse
former!          | ancien ancienne         | teacher student neighbour king queen
"""
_AFTER = """
red!             | rouge                   | clothing car bike lorry boat umbrella bag ball pencil lamp door flower
blue!            | bleu                    | clothing car bike lorry boat umbrella bag ball pencil plate door
green!           | vert                    | clothing bike bag ball pencil bottle door apple
white!           | blanc blanche           | clothing car lorry boat plate house wall flower horse cat rabbit mouse
black!           | noir                    | clothing car bike umbrella bag cat dog horse phone
yellow!          | jaune                   | dress shirt hat scarf bag ball pencil flower
French!          | français                | teacher student doctor actress wine cheese film novel newspaper song
Italian!         | italien italienne       | student actress film song restaurant car wine
wooden!          | en_bois                 | table chair bed box door toy bridge
heavy/heavier    | lourd                   | bag box bottle table piano
expensive        | cher chère              | clothing car bike boat watch phone computer hotel restaurant ticket
broken!          | cassé                   | chair lamp watch phone computer plate glass toy clock window
dirty/dirtier    | sale                    | clothing car plate glass knife kitchen bedroom window
clean/cleaner    | propre                  | clothing car plate glass knife kitchen bedroom hotel street window
empty!           | vide                    | box bag bottle glass
quiet/quieter    | calme                   | street village hotel beach park library
modern           | moderne                 | house museum hotel kitchen hospital school library theatre
interesting      | intéressant             | book novel story film museum question idea lesson newspaper
boring           | ennuyeux ennuyeuse      | book novel story film lesson concert
funny/funnier    | drôle                   | book story film song poem
difficult        | difficile               | question exercise lesson problem
easy/easier      | facile                  | question exercise lesson
important        | important               | letter message question lesson problem idea
strange/stranger | étrange                 | story question idea letter film song answer
delicious!       | délicieux délicieuse    | cake meal soup bread cheese meat sandwich coffee
hot/hotter       | chaud                   | soup coffee tea milk
cold/colder      | froid                   | soup coffee tea milk water meat beer
fresh/fresher    | frais fraîche           | bread milk egg cheese
famous           | célèbre                 | actress doctor museum castle novel song restaurant
rich/richer      | riche                   | man woman farmer actress
intelligent      | intelligent             | student child girl boy dog horse
serious          | sérieux sérieuse        | student child doctor problem
fast/faster      | rapide                  | car bike boat train plane computer horse
slow/slower      | lent                    | train bus boat computer
local!           | local                   | newspaper market museum hospital
"""
# States and traits of people, as predicates. The first three states look the same for either gender.
_MOODS = """
ill              | malade                  |
sad              | triste                  |
calm             | calme                   |
tired            | fatigué                 |
busy             | occupé                  |
worried          | inquiet inquiète        |
happy            | heureux heureuse        |
proud            | fier fière              |
surprised        | surpris                 |
alone!           | seul                    |
ready!           | prêt                    |
"""
_TRAITS = """
tall/taller      | grand                   |
old/older        | âgé                     |
young/younger    | jeune                   |
rich/richer      | riche                   |
famous           | célèbre                 |
kind/kinder      | gentil gentille         |
intelligent      | intelligent             |
patient          | patient                 |
serious          | sérieux sérieuse        |
"""


def _parse_adjectives(table: str, before_noun: bool = False) -> tuple[Adjective, ...]:
    adjectives = []
    for en, french, nouns in _rows(table):
        base, _, comparative = en.partition("/")
        gradable, base = not base.endswith("!"), base.rstrip("!")
        masculine, *others = map(_words, french.split())
        regular = masculine if masculine.endswith("e") or masculine.startswith("en ") else masculine + "e"
        feminine, before_vowel = (*others, *(regular, masculine)[len(others) :])
        comparative = comparative or f"more {base}"
        adjectives.append(
            Adjective(base, comparative, gradable, masculine, feminine, before_vowel, before_noun, noun_list(nouns))
        )
    return tuple(adjectives)


ADJECTIVES = _parse_adjectives(_BEFORE, before_noun=True) + _parse_adjectives(_AFTER)
MOODS, TRAITS = _parse_adjectives(_MOODS), _parse_adjectives(_TRAITS)
EPICENE_MOODS = MOODS[:3]
STEADY_MOODS = tuple(mood for mood in MOODS if mood.en != "ready")  # one is not "still ready"
EXCUSES = tuple(mood for mood in MOODS if mood.en in ("ill", "tired", "busy", "worried"))
PREDICATIVE_ONLY = frozenset({"clean", "dirty", "empty", "broken"})  # "she is washing the clean plates"
ATTRIBUTIVE_ONLY = frozenset({"little", "former", "local", "new", "wooden", "bad"})
TRANSIENT = frozenset({"clean", "dirty", "empty", "hot", "cold", "fresh", "quiet", "expensive"})
TOO_MUCH = frozenset("big small old long fat heavy expensive dirty difficult easy hot cold slow tired ill busy".split())
SECOND_ADJECTIVES = frozenset("red blue green white black yellow French Italian wooden".split())
ATTRIBUTES_OF = {
    noun: tuple(adj for adj in ADJECTIVES if noun in adj.nouns and adj.en not in PREDICATIVE_ONLY)
    for noun in NOUNS.values()
}
PREDICATES_OF = {
    noun: tuple(adj for adj in ADJECTIVES if noun in adj.nouns and adj.en not in ATTRIBUTIVE_ONLY)
    for noun in NOUNS.values()
    if noun.kind not in PERSON_KINDS
}

# --- determiners ------------------------------------------------------------------------------------------------------

# Name (+ for plural), English, French masculine and feminine, then both before a vowel where they differ ("de_le"
# elides to "de l'"). Flags: i becomes "de" after a negation, p vanishes after "de".
_DETERMINERS = """
the      | the      | le la                   |
the+     | the      | les les                 |
a        | a        | un une                  | i
bare     |          | du de_la de_le de_la    | ip
some     | some     | du de_la de_le de_la    | ip
any      | any      | du de_la de_le de_la    | ip
no       | no       | du de_la de_le de_la    | ip
bare+    |          | des des                 | ip
some+    | some     | des des                 | ip
any+     | any      | des des                 | ip
no+      | no       | des des                 | ip
all      |          | le la                   |
all+     |          | les les                 |
this     | this     | ce cette cet cette      |
that     | that     | ce cette cet cette      |
this+    | these    | ces ces                 |
that+    | those    | ces ces                 |
my       | my       | mon ma mon mon          |
my+      | my       | mes mes                 |
his      | his      | son sa son son          |
his+     | his      | ses ses                 |
her      | her      | son sa son son          |
her+     | her      | ses ses                 |
our      | our      | notre notre             |
our+     | our      | nos nos                 |
your     | your     | votre votre             |
your+    | your     | vos vos                 |
their    | their    | leur leur               |
their+   | their    | leurs leurs             |
two+     | two      | deux deux               |
three+   | three    | trois trois             |
four+    | four     | quatre quatre           |
five+    | five     | cinq cinq               |
six+     | six      | six six                 |
ten+     | ten      | dix dix                 |
few+     | a_few    | quelques quelques       |
several+ | several  | plusieurs plusieurs     |
lot      | a_lot_of | beaucoup_de beaucoup_de |
lot+     | a_lot_of | beaucoup_de beaucoup_de |
many+    | too_many | trop_de trop_de         |
"""


def _parse_determiner(name: str, en: str, french: str, flags: str) -> Determiner:
    masculine, feminine, *before_vowel = map(_words, french.split())
    masculine_vowel, feminine_vowel = before_vowel or (masculine, feminine)
    plural = name.endswith("+")
    return Determiner(
        _words(en), masculine, feminine, masculine_vowel, feminine_vowel, plural, "i" in flags, "p" in flags
    )


DETERMINERS = {row[0]: _parse_determiner(*row) for row in _rows(_DETERMINERS)}

# --- verbs ------------------------------------------------------------------------------------------------------------

# English, French, uses, subjects, objects or places. A verb may have several rows.
_SMALL = "bag key umbrella watch phone photo ball toy ticket pencil hat scarf book letter"
_TRANSITIVE = f"""
read       | lire        | ehxvi | human     | text
write      | écrire      | exv   | human     | letter story poem message
write      | écrire      | exv   | adult     | book novel song
buy        | acheter     | ehxvin| human     | fruit cake sandwich food drink flower
buy        | acheter     | exvn  | human     | book newspaper present toy ball pencil ticket hat scarf
buy        | acheter     | exv1n | adult     | clothing vehicle watch phone computer lamp table chair bed piano house \
                                               alcohol
sell       | vendre      | ehxvip | adult    | fruit cake food flower newspaper clothing
sell       | vendre      | exv1  | adult     | vehicle house horse watch phone computer table piano clock guitar
eat        | manger      | ehxvi | human     | fruit cake sandwich food
eat        | manger      | ex    | pet       | bread cheese meat
drink      | boire       | ehxvi | human     | milk water orange_juice
drink      | boire       | ehxvi | adult     | coffee tea alcohol
drink      | boire       | ehi   | pet       | water milk
prepare    | préparer    | ehxvi | adult     | meal soup coffee tea sandwich cake
wash       | laver       | ehxv  | human     | clothing car bike plate glass dog window
clean      | nettoyer    | ehxvd | adult     | kitchen bedroom house office church table
open       | ouvrir      | exv   | human     | door window box bag letter bottle present
close      | fermer      | exv   | human     | door window box bag
watch      | regarder    | ehxvin | human    | film bird horse
look_for   | chercher    | e     | human     | {_SMALL} dog cat
find       | trouver     | xf    | human     | {_SMALL} answer money
lose       | perdre      |       | human     | key umbrella watch phone ticket hat scarf pencil
forget     | oublier     | f     | human     | key umbrella phone ticket bag
take       | prendre     | ehxv  | adult     | train bus plane
wear       | porter      | ehf1  | human     | clothing
carry      | porter      | e     | human     | bag box chair bottle
bring      | apporter    | v     | human     | bag box chair bottle cake bread flower present photo guitar
choose     | choisir     | exvn  | human     | hat scarf dress coat book present toy
help       | aider       | ehxv  | human     | adult elder kin
help       | aider       | ehxv  | adult     | youth
meet       | rencontrer  | xv    | adult     | adult
call       | appeler     | ehv   | adult     | doctor neighbour elder kin
wait_for   | attendre    | ev    | human     | train bus doctor teacher elder kin
listen_to  | écouter     | ehxvin | human    | song music story teacher
hear       | entendre    | xfn   | human     | song bird dog owl music
understand | comprendre  | xfdn  | human     | question lesson story problem answer exercise poem
learn      | apprendre   | exv   | human     | song poem lesson
repair     | réparer     | exv   | adult     | vehicle clock computer lamp chair door wall bridge
build      | construire  | exv1  | adult     | house wall bridge school boat
drive      | conduire    | ehv1  | adult     | car lorry bus
paint      | peindre     | exv   | adult     | wall door house chair boat table
draw       | dessiner    | ehvin | human     | pet beast tree flower house castle boat
cut        | couper      | exv   | adult     | bread cake meat cheese
visit      | visiter     | xvn   | human     | museum castle church village town island
send       | envoyer     | xv    | adult     | letter message present photo
finish     | finir       | xv    | human     | book letter novel exercise
begin      | commencer   | xv    | human     | book letter novel exercise lesson
break      | casser      |       | human     | plate glass window lamp watch chair toy bottle
hide       | cacher      | xv    | human     | key letter present box
receive    | recevoir    | xf    | human     | letter message present answer
explain    | expliquer   | exvd  | adult     | problem question lesson idea exercise
see        | voir        | xvn   | human     | adult pet beast film castle island boat
"""
# These have no progressive and take the imparfait in the past.
_STATE = """
like       | aimer           | d  | human | film song book novel poem dress coat hat village town museum castle \
                                            teacher restaurant
have       | avoir           |    | adult | vehicle house garden piano computer watch guitar
have       | avoir           |    | human | brother sister pet friend ball bike question idea problem money
want       | vouloir         |    | human | clothing fruit cake sandwich drink bread soup bike ball phone
need       | avoir_besoin_de |    | human | coat hat umbrella pencil bag chair key glass knife money
know       | connaître       | d  | human | adult song story poem village town restaurant answer
"""
_INTRANSITIVE = """
sleep      | dormir      | ehv | human     | bedroom house garden hotel
sleep      | dormir      | eh  | pet       | kitchen house garden
work       | travailler  | ehv | adult     | office garden kitchen farm hospital library restaurant
dance      | danser      | ehv | human     | street park theatre kitchen garden
sing       | chanter     | ehv | human     | church street garden kitchen theatre
swim       | nager       | ehv | human     | river
run        | courir      | ehf | human pet | park street forest garden
walk       | marcher     | ehv | human     | forest street park village
play       | jouer       | ehv | youth pet | garden street park house
laugh      | rire        | ef  | human     |
cry        | pleurer     | ef  | human     |
smile      | sourire     | ef  | human     |
"""
_VISITED = (
    "school market station museum hospital hotel library restaurant theatre church bakery farm park village castle "
    "beach"
)
_MOTION = f"""
go         | aller_à     | ehv | human | {_VISITED}
come_back  | revenir_de  | exv | human | {_VISITED}
arrive     | arriver_à   | xf  | human | {_VISITED}
stay       | rester_à    | ev  | human | hotel library farm castle office hospital restaurant
"""
_REFLEXIVE = """
get_up        | se_lever     | ehxv | human |
wake_up       | se_réveiller | hxf  | human |
go_to_bed     | se_coucher   | ehxv | human |
get_dressed   | s'habiller   | ehxf | human |
rest          | se_reposer   | ev   | human |
go_for_a_walk | se_promener  | hv   | human |
"""
_ROLES = {"human": ("adult", "youth"), "adult": ("adult",), "youth": ("youth",), "pet": ("pet",)}


def parse_verb(row: str) -> Verb:
    """The verb of a table row `English | French | uses | subjects | nouns`; the last three cells may be missing."""
    cells = [cell.strip() for cell in row.split("|")]
    en, fr, uses, roles, nouns = (*cells, "", "", "")[:5]
    infinitive, *rest = re.sub(r"^(se_|s')", "", fr).split("_")
    preposition = rest.pop() if rest and rest[-1] in ("à", "de") else ""
    subjects = tuple(role for name in roles.split() for role in _ROLES[name])
    reflexive = fr.startswith(("se_", "s'"))
    uses = uses.replace("v", "vf")
    return Verb(_words(en), infinitive, " ".join(rest), preposition, reflexive, uses, subjects, noun_list(nouns))


def parse_verbs(table: str) -> tuple[Verb, ...]:
    """The verbs of a table, separated by line ends or semicolons."""
    return tuple(map(parse_verb, re.split(r"[;\n]", table.strip())))


TRANSITIVE, STATE, INTRANSITIVE, MOTION, REFLEXIVE = map(
    parse_verbs, (_TRANSITIVE, _STATE, _INTRANSITIVE, _MOTION, _REFLEXIVE)
)
