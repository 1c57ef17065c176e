"""Tokenizers: fixed special ids, text that comes back, limits respected, files that load or say why not."""

from __future__ import annotations

import json
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accel_tx.config import TokenizerConfig, UserError
from accel_tx.data.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    UNK_ID,
    Tokenizer,
    TokenizerPair,
    join_words,
    train_tokenizer,
)

# Every row comes back from word-level tokens as it was. The literal "<eos>" is there to be learned, if it can be.
ROUND_TRIPS = [
    "Le chat boit l'eau de la maison.",
    "C'est l'été, et les enfants jouent dans le jardin.",
    "« Où est-il ? » demanda-t-elle.",
    "L’enfant (qui dort, je crois) n’entend rien.",
    "Aujourd'hui il pleut ; demain, peut-être, il neigera…",
    "Il a dit : « Viens ! »",
    "Qu'est-ce que c'est ?",
    "Jusqu'à l'aube [dit-on] la mer s'apaise...",
    "Rendez-vous à l'entrée (sud).",
    "Va-t'en !",
    "The children's well-known game isn't over, it's late.",
    "I don't know (yet).",
]
SENTENCES = [*ROUND_TRIPS, "He wrote <eos> and <pad> and <bos> and <unk> here.", "Il a lu <eos>, <eos> et <pad> ici."]
VOCAB_SIZES = {"wordlevel": 200, "bpe": 420, "unigram": 150}
KINDS = list(VOCAB_SIZES)


def train(
    kind: str, vocab_size: int | None = None, min_frequency: int = 1, texts: list[str] | None = None
) -> Tokenizer:
    config = TokenizerConfig(kind, vocab_size or VOCAB_SIZES[kind], min_frequency)  # type: ignore[arg-type]
    return train_tokenizer(iter(SENTENCES * 3 if texts is None else texts), config)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {kind: train(kind) for kind in KINDS}


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    vocab: dict[str, int] = tokenizer.fast.get_vocab()
    return vocab


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_the_first_four_ids(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    assert (PAD_ID, UNK_ID, BOS_ID, EOS_ID) == (0, 1, 2, 3)
    vocab = vocabulary(tokenizers[kind])
    assert [vocab[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert sorted(vocab.values()) == list(range(tokenizers[kind].vocab_size))


@pytest.mark.parametrize("kind", KINDS)
def test_known_sentences_come_back(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(ROUND_TRIPS)
    assert all(0 <= i < tokenizer.vocab_size and i not in range(4) for sentence in ids for i in sentence)
    assert tokenizer.decode(ids) == ROUND_TRIPS


@pytest.fixture(scope="module")
def bpe(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["bpe"]


# Every character but halves of surrogate pairs, which no UTF-8 text has: controls and emoji too.
any_text = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=300, deadline=None)
@given(st.one_of(any_text, st.lists(st.sampled_from([*SPECIAL_TOKENS, " ", "é", "e\u0301", "▁", "Ġ"])).map("".join)))
@example("🙂👩‍👩‍👧 déjà vu 🇫🇷")
@example("a\u00a0b\u202fc\td\u200be")
@example("<eos>")
def test_bpe_gives_back_any_text_up_to_nfc_and_outer_spaces(bpe: Tokenizer, text: str) -> None:
    (ids,) = bpe.encode([text])
    assert not set(ids) & set(range(4))
    assert bpe.decode([ids]) == [unicodedata.normalize("NFC", text).strip()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["<eos>", "<pad>", "<bos>", "le <eos> chat", "chat<pad>chat", "<eos><eos>"])
def test_special_tokens_written_in_a_text_are_words_like_others(
    kind: str, text: str, tokenizers: dict[str, Tokenizer]
) -> None:
    (ids,) = tokenizers[kind].encode([text])
    assert ids
    assert not set(ids) & {PAD_ID, BOS_ID, EOS_ID}


TAGGED = [*(f"<2de> {text}" for text in SENTENCES), *(f"{text} <BT>" for text in SENTENCES)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_symbol_is_one_token_wherever_it_stands_and_nothing_of_it_is_learned(kind: str) -> None:
    def trained(texts: list[str], symbols: list[str]) -> Tokenizer:
        config = TokenizerConfig(kind, VOCAB_SIZES[kind] + len(symbols), 1, symbols=symbols)  # type: ignore[arg-type]
        return pickle.loads(pickle.dumps(train_tokenizer(iter(texts), config)))  # type: ignore[no-any-return]

    tokenizer, without = trained(TAGGED, ["<2de>", "<BT>"]), trained([*SENTENCES, *SENTENCES], [])
    n = without.vocab_size
    assert [tokenizer.fast.token_to_id(symbol) for symbol in ("<2de>", "<BT>")] == [n, n + 1]
    assert tokenizer.vocab_size == n + 2
    (plain,) = without.encode(["le chat"])
    assert tokenizer.encode([f"le{' ' * 200_000}chat"]) == without.encode([f"le{' ' * 200_000}chat"])
    for text, expected in [
        ("<2de> le chat", [n, *plain]),
        ("<2de>le chat <BT>", [n, *plain, n + 1]),
        ("<BT> <2de> le chat", [n + 1, n, *plain]),
        ("<BT><eos>", [n + 1, *without.encode(["<eos>"])[0]]),
    ]:
        assert tokenizer.encode([text]) == [expected]
    assert tokenizer.decode([[n, *plain]]) == ["<2de> le chat"]
    assert tokenizer.piece(n) == "<2de>"


@pytest.mark.parametrize("text", ["<eos>", "<pad>", "<bos>", "an old <eos> man", "man<pad>", "<eos><eos>"])
def test_unigram_spells_no_special_token_where_it_lacks_the_brackets(text: str, tmp_path: Path) -> None:
    config = TokenizerConfig(kind="unigram", vocab_size=25)
    tokenizer = train_tokenizer(iter(["the old man reads .", "a green coat", "bos, eos and pad"] * 50), config)
    assert tokenizer.fast.token_to_id("<") is None
    # A file of an earlier version, which knows of words alone.
    earlier = json.loads(tokenizer.fast.to_str())
    earlier["pre_tokenizer"] = earlier["pre_tokenizer"]["pretokenizers"][0]
    (tmp_path / "src.json").write_text(json.dumps(earlier), encoding="utf-8")
    for one in (tokenizer, Tokenizer.load(tmp_path / "src.json")):
        (ids,) = one.encode([text])
        assert not set(ids) & {PAD_ID, BOS_ID, EOS_ID}
        assert UNK_ID in ids
        assert "<" in one.unknown_words(text)[0][1]


@pytest.mark.parametrize("kind", KINDS)
def test_word_has_the_same_ids_at_the_start_as_in_the_middle(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    alone, behind = tokenizers[kind].encode(["chat", "Le chat"])
    assert behind[-len(alone) :] == alone


@pytest.mark.parametrize("kind", KINDS)
def test_composed_and_decomposed_accents_are_one(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    composed, decomposed = tokenizers[kind].encode(["l'été", unicodedata.normalize("NFD", "l'été")])
    assert composed == decomposed


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_leaves_out_special_ids(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    (ids,) = tokenizer.encode([ROUND_TRIPS[0]])
    framed = [BOS_ID, *ids, EOS_ID, PAD_ID, PAD_ID]
    assert tokenizer.decode([framed, [], [EOS_ID]]) == [ROUND_TRIPS[0], "", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_and_no_texts_have_no_ids(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    assert tokenizers[kind].encode([]) == []
    assert tokenizers[kind].encode([""]) == [[]]
    assert tokenizers[kind].decode([]) == []


def test_unknown_words_show_in_the_text() -> None:
    tokenizer = train("wordlevel")
    (ids,) = tokenizer.encode(["Le zèbre boit."])
    assert ids[1] == UNK_ID
    assert tokenizer.decode([ids]) == ["Le <unk> boit."]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", ""),
        ("l ' eau , ici .", "l'eau, ici."),
        ("l ’ eau , ici …", "l’eau, ici…"),
        ("demanda - t - elle", "demanda-t-elle"),
        ("rock ' n ' roll", "rock'n'roll"),
        ("Où ? Là !", "Où ? Là !"),
        ("« oui » ; « non » : fin", "« oui » ; « non » : fin"),
        ("( a ) [ b ] { c }", "(a) [b] {c}"),
        ("( l ' été ).", "(l'été)."),
        ("the dogs ' ( two ) tails", "the dogs' (two) tails"),
        ("100 %", "100%"),
        ("<unk> ' <unk>", "<unk> ' <unk>"),
    ],
)
def test_words_are_joined_as_french_and_english_do(words: str, text: str) -> None:
    assert join_words(words) == text


def test_rare_words_stay_out_of_a_wordlevel_vocabulary() -> None:
    texts = ["thrice twice once", "thrice twice", "thrice"]
    for min_frequency, words in [
        (1, {"once", "twice", "thrice"}),
        (2, {"twice", "thrice"}),
        (3, {"thrice"}),
        (4, set()),
    ]:
        tokenizer = train("wordlevel", min_frequency=min_frequency, texts=texts)
        assert set(vocabulary(tokenizer)) == words | set(SPECIAL_TOKENS)


def test_the_most_frequent_words_fill_a_full_vocabulary() -> None:
    texts = [" ".join(f"w{i}" for i in range(n)) for n in range(1, 21)]  # w0 occurs 20 times, w19 once
    assert set(vocabulary(train("wordlevel", vocab_size=10, texts=texts))) == {f"w{i}" for i in range(6)} | {
        *SPECIAL_TOKENS
    }


def test_rare_merges_stay_out_of_a_bpe_vocabulary() -> None:
    texts = ["abab"] * 3
    n_bytes_and_special = 256 + 4
    assert train("bpe", min_frequency=7, texts=texts).vocab_size == n_bytes_and_special
    merged = vocabulary(train("bpe", min_frequency=6, texts=texts))
    assert len(merged) == n_bytes_and_special + 1
    assert "ab" in merged  # twice in each of three texts


@pytest.mark.parametrize(("kind", "vocab_size"), [("wordlevel", 10), ("bpe", 300), ("unigram", 80)])
def test_vocabulary_size_is_an_upper_bound_that_is_used(kind: str, vocab_size: int) -> None:
    assert train(kind, vocab_size).vocab_size == vocab_size


# Not unigram: `tokenizers` adds its float scores up in an order that differs from one training to the next.
@pytest.mark.parametrize("kind", ["wordlevel", "bpe"])
def test_training_takes_texts_or_batches_of_them_and_repeats_itself(
    kind: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    config = TokenizerConfig(kind, VOCAB_SIZES[kind], 1)  # type: ignore[arg-type]
    texts = SENTENCES * 3
    batched = train_tokenizer(iter([texts[i : i + 5] for i in range(0, len(texts), 5)]), config)
    batched.save(tmp_path / "batched.json")
    tokenizers[kind].save(tmp_path / "single.json")
    assert (tmp_path / "batched.json").read_bytes() == (tmp_path / "single.json").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_tokenizer_is_the_saved_one(kind: str, tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    saved = tokenizers[kind]
    saved.save(tmp_path / "a.json")
    loaded = Tokenizer.load(tmp_path / "a.json")
    texts = [*SENTENCES, "le <eos> chat", "zèbre 🙂", ""]
    ids = saved.encode(texts)
    assert loaded.encode(texts) == ids
    assert loaded.decode(ids) == saved.decode(ids)
    assert vocabulary(loaded) == vocabulary(saved)


def test_pair_keeps_its_sides_apart(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    TokenizerPair(tokenizers["bpe"], tokenizers["wordlevel"]).save(tmp_path / "new" / "folder")
    loaded = TokenizerPair.load(tmp_path / "new" / "folder")
    assert loaded.src.vocab_size == tokenizers["bpe"].vocab_size
    assert loaded.tgt.vocab_size == tokenizers["wordlevel"].vocab_size


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="no such file; expected a tokenizer") as error:
            Tokenizer.load(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", ["empty", "cut short", "other JSON", "binary"])
def test_damaged_file_is_a_user_error(damage: str, bpe: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "src.json"
    bpe.save(path)
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut short": content[: len(content) // 2],
        "other JSON": b'{"a": 1}',
        "binary": b"\xff\x00",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"src\.json: is not a tokenizer file") as error:
        Tokenizer.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_tokenizer_still_takes_special_tokens_for_words(kind: str) -> None:
    """Worker processes get it pickled."""
    text = "le <eos> chat <pad> noir"
    config = TokenizerConfig(kind=kind, vocab_size=VOCAB_SIZES[kind], min_frequency=1)  # type: ignore[arg-type]
    tokenizer = train_tokenizer(iter(SENTENCES), config)
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert copied.encode([text]) == tokenizer.encode([text])
    assert not {PAD_ID, EOS_ID} & set(copied.encode([text])[0])
