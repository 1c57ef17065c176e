"""Peak memory of training, in bytes, from config, micro-batches and sizes of the vocabularies.

The same numbers on every machine but for bfloat16 on a CPU, which depends on what this one can.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from accel_tx.config import Config, ModelConfig
from accel_tx.data.blocks import FEW_PLACES
from accel_tx.data.dealing import Indices
from accel_tx.data.shapes import Shapes

Device = Literal["cpu", "gpu"]
_MIB = 2**20
# Measured on CPU, see Memory.
_PROGRAM = {"no": 310 * _MIB, "bf16": 370 * _MIB, "fp16": 370 * _MIB}
_FRAGMENTATION = 0.6
# Logits that `model/loss.py` has in memory at a time. 2^25 float32 are 128 MiB, enough rows for the matrix products to
# run at full speed; a GPU wants more of them.
_LOGITS_PER_CHUNK: dict[Device, int] = {"cpu": 1 << 25, "gpu": 1 << 26}
# What is larger than 32 MiB malloc has the system map anew at every step, a page fault for each 4 KiB. So a chunk on a
# CPU stays below it where that leaves rows enough: with fewer, the matrix's gradient is read and written too often.
_MAPPED_BYTES = (1 << 25) - (1 << 16)
_FEWEST_ROWS = 512
# What lies between two matrix products of a chunk is done for so many logits at a time on a CPU: 2^18 float32 are 1 MiB
# and stay in the core's cache between the passes over them. Two such blocks are a chunk on a GPU.
LOGITS_PER_BLOCK: dict[Device, int] = {"cpu": 1 << 18, "gpu": 1 << 25}


@dataclass(frozen=True)
class Memory:
    """Forecast of the peak of one training process, in bytes; validation is not counted.

    Against the measured peak of anonymous memory (RssAnon) of the first updates on CPU (AMD EPYC, one thread, torch
    2.13), forecast and measured in MiB, when batches were still padded as a whole:

    - quickstart (d_model 128), 15 updates: 386 and 391 in float32, 428 and 406 in bf16
    - d_model 512, 6+6 layers, max_tokens 2048, 2 micro-batches, 2 updates: 2376 and 2503, 2044 and 2141 in bf16
    - multi30k_en_fr in bf16, one micro-batch of 512, 1024, 8192: 452 and 441, 493 and 463, 935 and 870
    - opus_books_en_fr with vocabularies of 30,000, office help, 3 updates: 3616 and 3437, 2923 and 2737 in bf16;
      1838 and 2043 in bf16 with gradient checkpointing

    Without the program it is within 8 % of what torch's allocator gives out, which a test checks. On an H200 the peaks
    were 6133 MiB for 5964 (transformer_big, bf16), 3397 for 3340 and 5475 for 6041 (transformer_base, compiled, bf16
    and fp16).
    """

    parameters: int
    """In float32, their copies in half precision, and their running average."""
    gradients: int
    optimizer: int
    """Adam's two moments; of the matrices that Muon has there is only one, which is not counted apart."""
    activations: int
    """What the largest micro-batch keeps for its backward pass."""
    loss: int
    """Logits of a chunk, and the gradients that the loss takes on its way forward."""
    program: int
    """Interpreter, libraries and kernels, and blocks that the allocator does not give back; on a GPU not counted."""

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(dataclasses.astuple(self))


def count_parameters(model: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> int:
    """Trainable numbers of the Transformer of a config, shared ones counted once."""
    d, f = model.d_model, model.d_ff
    norm, feed_forward = 2 * d, 2 * d * f + f + d
    attention = 4 * d * d + (2 * d if model.attention_bias else 0)
    encoder_layer = attention + feed_forward + 2 * norm
    decoder_layer = 2 * attention + feed_forward + 3 * norm
    n_matrices = {"none": 2, "decoder": 1, "all": 1}[model.tie_embeddings]
    embeddings = n_matrices * tgt_vocab_size * d + (0 if model.tie_embeddings == "all" else src_vocab_size * d)
    layers = (
        len(set(model.encoder_layer_order())) * encoder_layer + len(set(model.decoder_layer_order())) * decoder_layer
    )
    return embeddings + tgt_vocab_size + layers + (2 * norm if model.norm == "pre" else 0)


def ddp_bytes(model: ModelConfig, src_vocab_size: int, tgt_vocab_size: int, n_processes: int) -> int:
    """The buckets in which several processes sum their gradients up, beside those of the micro-batches so far."""
    return 4 * count_parameters(model, src_vocab_size, tgt_vocab_size) if n_processes > 1 else 0


def peak_memory(
    config: Config, shapes: Shapes, src_vocab_size: int, tgt_vocab_size: int, device: Device, precision: str
) -> Memory:
    """Peak of one process that trains on whole micro-batches of these shapes.

    The gradients of earlier micro-batches stay until the update is made; those of the only one come as activations go.
    """
    n_parameters = count_parameters(config.model, src_vocab_size, tgt_vocab_size)
    if config.optim.r_drop:
        shapes = shapes.twice()  # both passes are in memory at a time
    kept = activation_bytes(config.model, shapes, precision, device, config.train.gradient_checkpointing)
    largest = int(kept.argmax())
    program = _PROGRAM[precision] + round(_FRAGMENTATION * kept[largest]) if device == "cpu" else 0
    logits, of_loss = _loss_bytes(config, int(shapes.n_tgt_tokens[largest]), tgt_vocab_size, device, precision)
    given_back = int(kept[largest])
    if config.train.gradient_checkpointing:
        # The layer that is computed again takes the place of the logits, and is there until the last gradient.
        again = int(layer_again(config.model, shapes, precision, device)[largest])
        logits, given_back = max(0, logits - again), given_back - again
    is_alone = config.train.micro_batches_per_update == 1
    average = 0 if config.train.ema_decay is None else 4
    return Memory(
        # Rounded matrices are counted with the layers that round them.
        parameters=((4 if precision == "no" or config.model.quantization == "int8" else 6) + average) * n_parameters,
        gradients=max(0, 4 * n_parameters - given_back) if is_alone else 4 * n_parameters,
        optimizer=8 * n_parameters,
        activations=int(kept[largest]),
        loss=logits + of_loss,
        program=program,
    )


def activation_bytes(
    model: ModelConfig, shapes: Shapes, precision: str, device: Device, checkpointing: bool = False
) -> Indices:
    """What autograd keeps of the forward pass of each micro-batch, (n_micro_batches,).

    With gradient checkpointing: the inputs of the layers, and what the largest layer keeps when it is computed again.
    """
    d, wide = model.d_model, 4  # the residual stream is float32 in every precision
    n_src, n_tgt = shapes.n_src_tokens, shapes.n_tgt_tokens
    ends = d * ((1 if model.dropout else 0) + (wide if model.norm == "pre" else 0))  # behind embedding, in last norm
    if model.positions == "rotary":
        ends += d * wide  # the angles at the tokens' places, which all layers share
    kept = (n_src + n_tgt) * ends
    if checkpointing:
        n_inputs = n_src * (model.n_encoder_layers + 1) + n_tgt * model.n_decoder_layers  # the encoder output as well
        kept = kept + n_inputs * d * wide + layer_again(model, shapes, precision, device)
    else:
        encoder_layer, decoder_layer = _layer_bytes(model, shapes, precision, device)
        kept = kept + model.n_encoder_layers * encoder_layer + model.n_decoder_layers * decoder_layer
        if precision == "no" and model.quantization == "none":
            kept = kept + n_src * d * wide
    return np.asarray(kept, dtype=np.int64)


def layer_again(model: ModelConfig, shapes: Shapes, precision: str, device: Device) -> Indices:
    """What the largest layer keeps when gradient checkpointing computes it again, (n_micro_batches,)."""
    return np.maximum(*_layer_bytes(model, shapes, precision, device))


def _layer_bytes(model: ModelConfig, shapes: Shapes, precision: str, device: Device) -> tuple[Indices, Indices]:
    """What one executed layer keeps of each micro-batch: an encoder layer, a decoder layer; each (n_micro_batches,)."""
    # What the norms see is float32 in every precision, the products' inputs are not.
    wide, narrow = 4, 4 if precision == "no" else 2
    d = model.d_model
    kept = 1 if model.dropout else 0
    # ReLU's backward pass takes what the second product takes, unless that is rounded.
    is_int8 = model.quantization == "int8"
    n_inner = 1 if model.activation == "relu" and not is_int8 else 2
    norm = d * (wide + narrow) + 2 * 4  # its input, its output, mean and deviation
    around_attention = norm + d * narrow + d * kept  # its heads, which the output projection takes
    feed_forward = norm + n_inner * model.d_ff * narrow + d * kept
    n_src, n_tgt = shapes.n_src_tokens, shapes.n_tgt_tokens
    encoder_layer = n_src * (around_attention + feed_forward)
    decoder_layer = n_tgt * (2 * around_attention + feed_forward)
    if is_int8:  # rounded matrices
        encoder_layer = encoder_layer + narrow * (4 * d * d + 2 * d * model.d_ff)
        decoder_layer = decoder_layer + narrow * (8 * d * d + 2 * d * model.d_ff)
    # Queries, keys and values.
    n_src_places, n_tgt_places = shapes.n_src_positions, shapes.n_tgt_positions
    encoder_layer = encoder_layer + n_src_places * 3 * d * narrow
    decoder_layer = decoder_layer + (n_tgt_places * 4 + n_src_places * 2) * d * narrow
    encoder_layer = encoder_layer + _attention_bytes(model, precision, device, shapes.n_src_src, n_src_places)
    for n_compared in (shapes.n_tgt_tgt, shapes.n_tgt_src):
        decoder_layer = decoder_layer + _attention_bytes(model, precision, device, n_compared, n_tgt_places)
    if precision != "no" or is_int8:  # the encoder output, which every layer casts or rounds for itself
        decoder_layer = decoder_layer + n_src * d * narrow
    return encoder_layer, decoder_layer


def _attention_bytes(
    model: ModelConfig, precision: str, device: Device, n_compared: Indices, n_places: Indices
) -> Indices:
    """What one attention keeps beside its inputs: its weights, or a fused kernel's own heads and log-sums."""
    narrow, h = 4 if precision == "no" else 2, model.n_heads
    drops = model.attention_dropout > 0
    fused = n_places * (model.d_model * narrow + 4 * h)
    if device == "gpu":
        return fused
    plain = n_compared * h * (narrow + drops)
    if precision == "bf16":
        return plain
    # Dropped by torch's own products, in float32: the weights, those that are left, and the mask as wide.
    unfused = n_compared * h * 3 * 4
    if precision == "fp16":
        return unfused if drops else fused
    return np.where(n_compared <= FEW_PLACES * n_places, plain, unfused if drops else fused)


def _loss_bytes(config: Config, n_tokens: int, vocab_size: int, device: Device, precision: str) -> tuple[int, int]:
    """What the loss needs for a time, logits, and what it keeps for the backward pass, its gradients."""
    # The rounded matrix of the logits and its copy in half precision.
    of_matrix = (4 if precision == "no" else 6) * vocab_size * config.model.d_model
    rounded = of_matrix if config.model.quantization == "int8" else 0
    hidden, r_drop = n_tokens * config.model.d_model, bool(config.optim.r_drop)
    if precision == "fp16":
        # All logits, in half and in full precision, their logarithms and the gradients of these; of R-Drop besides both
        # probabilities and the differences of these and of the logarithms.
        return rounded + n_tokens * vocab_size * (2 + 4 + 4 + 4 + 8 * r_drop) + 2 * hidden, 0
    narrow = 4 if precision == "no" else 2
    n_logits = min(n_tokens * vocab_size, logits_per_chunk(vocab_size, narrow, device))
    n_between = min(n_logits, LOGITS_PER_BLOCK[device])
    of_gradients = 4 * (vocab_size * config.model.d_model + 2 * hidden)
    if device == "cpu" and precision == "no" and not r_drop:
        # The probabilities take the place of the logits, and the matrix is there again with the bias beside it.
        return rounded + 4 * n_logits + 4 * vocab_size * config.model.d_model, of_gradients
    # Logits and probabilities, which in float32 take the place of the products, unless the kernel for GPUs has twice as
    # many of these; of R-Drop besides the gradient, the difference of the logits and its product. All that comes after
    # the product, and so after its own buffer.
    n_copies = (4 if r_drop else 2) - (precision == "no" and r_drop)
    of_product = n_logits if device == "cpu" and precision == "bf16" and _widens_bfloat16() else 0
    logits = rounded + narrow * n_logits + 4 * max(n_copies * n_between, of_product)
    return logits, of_gradients


def logits_per_chunk(vocab_size: int, n_bytes: int, device: Device) -> int:
    """How many logits the loss has in memory at a time, of `n_bytes` each."""
    n_unmapped = _MAPPED_BYTES // n_bytes
    if device == "cpu" and n_unmapped >= _FEWEST_ROWS * vocab_size:
        return n_unmapped
    return _LOGITS_PER_CHUNK[device]


def _widens_bfloat16() -> bool:
    """Whether products of bfloat16 take a buffer of float32 in the size of their result on this CPU.

    oneDNN's do on CPUs with AVX-512 but without bfloat16; those of older CPUs are torch's own, which do not.
    """
    cpu = torch.cpu
    return cpu._is_avx512_supported() and not (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
