from __future__ import annotations

import numpy as np

from accel_tx.data.token_pairs import Ragged, TokenPairs


def test_ragged_columns_of_several_chunks_give_every_row() -> None:
    lists = [[list(range(n)) for n in sizes] for sizes in ((3, 0, 2), (1,), (4, 4))]
    chunks = [Ragged.from_lists(part).chunks[0] for part in lists]
    ragged = Ragged(chunks)
    flat = [row for part in lists for row in part]
    assert len(ragged) == 6
    assert [ragged[i].tolist() for i in range(6)] == flat
    assert ragged.lengths().tolist() == [len(row) for row in flat]
    whole = TokenPairs(Ragged.from_lists(flat), Ragged.from_lists(flat))
    assert TokenPairs(ragged, ragged).sha256() == whole.sha256()
    other = TokenPairs(Ragged.from_lists(flat[::-1]), Ragged.from_lists(flat))
    assert other.sha256() != whole.sha256()
    assert np.array_equal(whole.src_lengths, ragged.lengths() + 1)
