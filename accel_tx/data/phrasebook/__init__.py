"""The embedded corpus: English-French sentence pairs from a synchronous grammar, offline and deterministic.

One abstract structure (tense, person, polarity, noun phrases, clauses) is realised in English and in French together,
so every pair is an exact translation, and the English alone decides the French: "you" is always "vous", "they" is "ils"
unless its antecedent is feminine, and no agreement depends on a gender that English does not show.

Held-out combinations. A sentence uses lexical combinations: (adjective, noun), (verb, object), (subject, verb). A fixed
hash, which no seed changes, holds out `HELD_OUT_SHARE` of them. A training sentence has no held-out combination; a
validation sentence has at least one. So validation asks for combinations that training never shows, made of words that
training does show, and the two splits cannot share a sentence.

The parts, each importing only those before it:
    lexicon          the words, as tables
    grammar          tenses, adverbs and clauses in the abstract
    english, french  what puts them into words
    frames           settings in time, and the determiners that suit them
    phrases          random subjects, objects, verb phrases and clauses
    statements, descriptions, facts, questions, clauses, sequences
                     the sentence patterns
    generate         draws patterns and sorts their sentences into training and validation
"""

from accel_tx.data.phrasebook.generate import iter_pairs

__all__ = ["iter_pairs"]
