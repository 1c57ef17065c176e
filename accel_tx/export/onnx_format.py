"""Format `onnx`: the encoder and one position of the decoder as graphs, and a greedy search for onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from accel_tx.export.onnx_modules import DecoderGraph, EncoderGraph
from accel_tx.export.source import Trained
from accel_tx.export.text import SOURCE_FILE, TARGET_FILE, stand_alone

LIBRARY = "onnx"
PACKAGES: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
QUANTIZATIONS: tuple[str, ...] = ("float32",)
_OPSET = 18
# A file of a graph holds at most 2 GB; beyond, the weights go into a file beside it.
_LARGEST_GRAPH_BYTES = 1_900_000_000
_INTERFACE = """\
What goes in and out of the graphs, with B sentences of S source tokens and P target tokens so far, H heads of width K,
V target words, and i from 0 for the decoder layers as executed:

| graph | | name | shape |
|---|---|---|---|
| `encoder.onnx` | in | `src_ids`, int64, ending with EOS | (B, S) |
| | | `src_valid`, bool, true at real tokens | (B, S) |
| | out | `cross_key_i`, `cross_value_i` | (B, H, S, K) |
| `decoder.onnx` | in | `tokens`, int64, the newest of each sentence, at first BOS | (B, 1) |
| | | `src_valid`, `cross_key_i`, `cross_value_i` as above | |
| | | `self_key_i`, `self_value_i`, at first with P = 0 | (B, H, P, K) |
| | out | `logits` | (B, V) |
| | | `new_self_key_i`, `new_self_value_i` | (B, H, P + 1, K) |

PAD is 0, UNK 1, BOS 2, EOS 3. The key `max_positions` of the graphs' metadata is the most that S and P + 1 may be."""


def write(trained: Trained, folder: Path, quantization: str) -> None:
    """Fill the folder."""
    model = trained.model
    memory = _names("cross", len(model.decoder_order))
    own = _names("self", len(model.decoder_order))
    batch, source, past = Dim("batch"), Dim("src_len"), Dim("past_len")
    ids, valid = torch.full((2, 3), 4), torch.ones(2, 3, dtype=torch.bool)
    shape = (model.config.n_heads, model.config.d_model // model.config.n_heads)
    past_keys = tuple(torch.zeros(2, shape[0], 4, shape[1]) for _ in own)
    src_keys = tuple(torch.zeros(2, shape[0], 3, shape[1]) for _ in memory)
    of_source = {0: batch, 1: source}
    _export(
        EncoderGraph(model), (ids, valid), folder / "encoder.onnx", ["src_ids", "src_valid"], memory, (of_source,) * 2
    )
    _export(
        DecoderGraph(model),
        (ids[:, :1], valid, past_keys, src_keys),
        folder / "decoder.onnx",
        ["tokens", "src_valid", *own, *memory],
        ["logits", *(f"new_{name}" for name in own)],
        ({0: batch}, of_source, ({0: batch, 2: past},) * len(own), ({0: batch, 2: source},) * len(memory)),
    )
    stand_alone(trained.tokenizers.src).save(str(folder / SOURCE_FILE))
    stand_alone(trained.tokenizers.tgt).save(str(folder / TARGET_FILE))
    shutil.copyfile(Path(__file__).with_name("onnx_greedy.py"), folder / "onnx_greedy.py")


def how_to_load(trained: Trained, folder: str) -> str:
    """For the model card."""
    return f"""\
```python
import sys; sys.path.insert(0, "{folder}")
from onnx_greedy import OnnxTranslator
print(OnnxTranslator("{folder}").translate(["A sentence."]))
```

`onnx_greedy.py` needs numpy, onnxruntime and tokenizers, not accel_tx. {_INTERFACE}"""


def load(folder: Path) -> Runtime:
    """On the CPU."""
    return Runtime(folder)


def _names(kind: str, n_layers: int) -> list[str]:
    return [f"{kind}_{part}_{i}" for i in range(n_layers) for part in ("key", "value")]


def _export(
    graph: EncoderGraph | DecoderGraph,
    inputs: tuple[Any, ...],
    path: Path,
    input_names: list[str],
    output_names: list[str],
    shapes: Any,
) -> None:
    with _quietly():
        program = torch.onnx.export(
            graph.eval(),
            inputs,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["max_positions"] = str(graph.model.config.max_positions)
    size = sum(tensor.nbytes for tensor in (*graph.parameters(), *graph.buffers()))
    program.save(path, external_data=size > _LARGEST_GRAPH_BYTES)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter tells its developers."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)


class Runtime:
    """onnxruntime on the CPU, with as many threads as torch has."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        from accel_tx.export.onnx_greedy import OnnxTranslator

        self.name = f"onnxruntime {onnxruntime.__version__} (float32)"
        self.translator = OnnxTranslator(folder, torch.get_num_threads())

    def translate(self, lines: Sequence[str], limits: Sequence[int]) -> list[str]:
        """Greedily, at most so many tokens each."""
        return self.translator.translate(lines, limits)
