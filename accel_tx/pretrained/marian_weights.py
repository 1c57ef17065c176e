"""The weights of a MarianMTModel in our Transformer: the way back from `accel_tx.export.hf_weights`.

What differs is made up for exactly. The position table there has all sines before all cosines, so the dimensions of the
residual stream are put into another order. A bias of the keys adds the same to all scores of a query, which softmax
does not see: it is left out. One of the values is added to every output, as the weights of attention sum to 1: it goes
into the bias of the output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from accel_tx.config import ModelConfig, UserError
from accel_tx.data.text_file import one_line
from accel_tx.model.transformer import Transformer
from accel_tx.pretrained.marian_folder import CONFIG, MarianFolder
from accel_tx.pretrained.marian_vocabulary import Vocabularies

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu", "swish": "silu"}
# Options of earlier versions of `transformers`, when a MarianMTModel could be more than Marian's models are.
_REFUSED = {
    "normalize_before": True,
    "normalize_embedding": True,
    "add_final_layer_norm": True,
    "static_position_embeddings": False,
    "scale_embedding": False,
}


def model_config(folder: MarianFolder, vocabularies: Vocabularies) -> ModelConfig:
    """The same model in our terms. Raises: UserError for one that ours cannot be."""
    config, where = folder.config, folder.path / CONFIG
    for name, value in _REFUSED.items():
        if config.get(name, not value) is value:
            raise UserError(f"{where}: {name} is {str(value).lower()}; expected {str(not value).lower()}, as Marian's")
    for name in ("ffn_dim", "attention_heads"):
        both = [config.get(f"{stack}_{name}") for stack in ("encoder", "decoder")]
        if both[0] != both[1]:
            raise UserError(f"{where}: encoder_{name} is {both[0]}, decoder_{name} {both[1]}; expected the same")
    activation = config.get("activation_function")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise UserError(f"{where}: activation_function is {activation!r}; expected one of {', '.join(_ACTIVATIONS)}")
    sizes = {
        "d_model": "d_model",
        "d_ff": "encoder_ffn_dim",
        "n_heads": "encoder_attention_heads",
        "n_encoder_layers": "encoder_layers",
        "n_decoder_layers": "decoder_layers",
        "max_positions": "max_position_embeddings",
    }
    found = {ours: folder.size(theirs) for ours, theirs in sizes.items()}
    dropouts = {name: folder.number(name, default) for name, default in (("dropout", 0.1), ("attention_dropout", 0.0))}
    try:
        return ModelConfig(
            **found,  # type: ignore[arg-type]
            **dropouts,  # type: ignore[arg-type]
            activation=_ACTIVATIONS[activation],  # type: ignore[arg-type]
            attention_bias=True,
            norm="post",
            tie_embeddings=_tied(folder, vocabularies),  # type: ignore[arg-type]
        )
    except UserError as error:
        raise UserError(f"{where}: in our terms {error}") from None


def _tied(folder: MarianFolder, vocabularies: Vocabularies) -> str:
    if not folder.ties_logits:
        return "none"
    return "all" if vocabularies.is_joint and folder.shares_matrix else "decoder"


def load_marian(folder: MarianFolder, vocabularies: Vocabularies, config: ModelConfig) -> Transformer:
    """Our model with the folder's weights, on the CPU, in eval mode.

    Raises: UserError where the file of weights is damaged, or not of the model that `config.json` describes.
    """
    read = _Weights(folder)
    tokenizers = vocabularies.tokenizers
    model = Transformer(config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
    try:
        state = _our_state(folder, read, vocabularies, model)
        model.to(state["output_bias"].dtype).load_state_dict(state)
    except (RuntimeError, IndexError) as error:
        raise UserError(f"{read.path}: is not of the model that {CONFIG} describes: {one_line(error)}") from None
    return model.eval()


_LOGITS = "lm_head.weight"
_NUMBERED = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.")


def _our_state(
    folder: MarianFolder, read: _Weights, vocabularies: Vocabularies, model: Transformer
) -> dict[str, Tensor]:
    config = model.config
    read.check_layers({"encoder": config.n_encoder_layers, "decoder": config.n_decoder_layers})
    state: dict[str, Tensor] = {}
    to_ours = _in_our_order(config.d_model)
    src, tgt = _names_of_matrices(folder)
    state["tgt_embedding.weight"] = read.rows(read.first(tgt), vocabularies.tgt_rows)[:, to_ours]
    if model.src_embedding is not None:
        state["src_embedding.weight"] = read.rows(read.first(src), vocabularies.src_rows)[:, to_ours]
    if model.output_weight is not None:
        state["output_weight"] = read.rows(_LOGITS, vocabularies.tgt_rows)[:, to_ours]
    state["output_bias"] = read.bias_of_logits(vocabularies.tgt_rows)
    for i in range(config.n_encoder_layers):
        state |= _layer(read, f"model.encoder.layers.{i}", f"encoder_layers.{i}", to_ours)
    for i in range(config.n_decoder_layers):
        theirs, ours = f"model.decoder.layers.{i}", f"decoder_layers.{i}"
        state |= _layer(read, theirs, ours, to_ours)
        q, k, v, query_bias, out, out_bias = _attention(read, f"{theirs}.encoder_attn", to_ours)
        state |= {
            f"{ours}.cross_attention.query.weight": q,
            f"{ours}.cross_attention.query.bias": query_bias,
            f"{ours}.cross_attention.key_value.weight": torch.cat([k, v]),
            f"{ours}.cross_attention.out.weight": out,
            f"{ours}.cross_attention.out.bias": out_bias,
        }
        state |= _norm(read, f"{theirs}.encoder_attn_layer_norm", f"{ours}.cross_attention_residual.norm", to_ours)
    return state


def _names_of_matrices(folder: MarianFolder) -> tuple[list[str], list[str]]:
    """Of the embeddings of source and target: what is tied stands in a file once, under any of its names."""
    src, tgt = ["model.encoder.embed_tokens.weight"], ["model.decoder.embed_tokens.weight"]
    if folder.ties_logits:
        tgt.append(_LOGITS)
    if folder.shares_matrix:
        both = ["model.shared.weight", *src, *tgt]
        src, tgt = [*src, *both], [*tgt, *both]
    return src, tgt


class _Weights:
    """The tensors of the file, by name."""

    def __init__(self, folder: MarianFolder) -> None:
        self.path = folder.weights_file
        self._tensors = folder.weights()

    def check_layers(self, n_layers: Mapping[str, int]) -> None:
        """Raise UserError where the file has more than these."""
        for found in filter(None, map(_NUMBERED.match, self._tensors)):
            if int(found[2]) >= n_layers[found[1]]:
                raise UserError(
                    f"{self.path}: has the layer {found[0]}*, but {CONFIG} says {found[1]}_layers = "
                    f"{n_layers[found[1]]}; expected files of one model"
                )

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise UserError(f"{self.path}: has no {name}; expected the weights of a MarianMTModel")
        return self._finite(name, self._tensors[name])

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        if not tensor.isfinite().all():
            raise UserError(f"{self.path}: {name} holds numbers that are not finite; give another copy")
        return tensor

    def first(self, names: Sequence[str]) -> str:
        """The first of the names that is there."""
        return next((name for name in names if name in self._tensors), names[0])

    def rows(self, name: str, rows: list[int]) -> Tensor:
        """These rows of a matrix (V, D)."""
        matrix = self[name]
        if matrix.ndim != 2:
            raise UserError(f"{self.path}: {name} has the shape {tuple(matrix.shape)}; expected a matrix")
        if max(rows) >= len(matrix):
            raise UserError(
                f"{self.path}: {name} has {len(matrix):,} rows, but the vocabulary's ids go up to {max(rows):,}; "
                "expected files of one model"
            )
        return matrix[rows]

    def bias_of_logits(self, rows: list[int]) -> Tensor:
        """Zero where there is none, one number a row."""
        if "final_logits_bias" not in self._tensors:
            return torch.zeros(len(rows), dtype=next(iter(self._tensors.values())).dtype)
        bias = self._tensors["final_logits_bias"]
        if bias.shape[-1:].numel() != bias.numel():
            raise UserError(f"{self.path}: final_logits_bias has the shape {tuple(bias.shape)}; expected one row")
        return self._finite("final_logits_bias", bias.flatten()[rows])


def _in_our_order(d_model: int) -> Tensor:
    """Where each of our dimensions stands there: sines and cosines alternate here."""
    half = d_model // 2
    return torch.stack([torch.arange(half), torch.arange(half) + half], dim=1).flatten()


def _layer(read: _Weights, theirs: str, ours: str, to_ours: Tensor) -> dict[str, Tensor]:
    """Self-attention and feed-forward, which layers of both stacks have."""
    q, k, v, query_bias, out, out_bias = _attention(read, f"{theirs}.self_attn", to_ours)
    return {
        f"{ours}.self_attention.qkv.weight": torch.cat([q, k, v]),
        f"{ours}.self_attention.query_bias": query_bias,
        f"{ours}.self_attention.out.weight": out,
        f"{ours}.self_attention.out.bias": out_bias,
        f"{ours}.feed_forward.inner.weight": read[f"{theirs}.fc1.weight"][:, to_ours],
        f"{ours}.feed_forward.inner.bias": read[f"{theirs}.fc1.bias"],
        f"{ours}.feed_forward.outer.weight": read[f"{theirs}.fc2.weight"][to_ours],
        f"{ours}.feed_forward.outer.bias": read[f"{theirs}.fc2.bias"][to_ours],
        **_norm(read, f"{theirs}.self_attn_layer_norm", f"{ours}.self_attention_residual.norm", to_ours),
        **_norm(read, f"{theirs}.final_layer_norm", f"{ours}.feed_forward_residual.norm", to_ours),
    }


def _attention(read: _Weights, name: str, to_ours: Tensor) -> tuple[Tensor, ...]:
    """Weights of queries, keys and values, the bias of the queries, weight and bias of the output."""
    q, k, v = (read[f"{name}.{part}_proj.weight"][:, to_ours] for part in "qkv")
    out, out_bias = read[f"{name}.out_proj.weight"], read[f"{name}.out_proj.bias"]
    of_values = out.double() @ read[f"{name}.v_proj.bias"].double()
    bias = (out_bias.double() + of_values).to(out.dtype)
    return q, k, v, read[f"{name}.q_proj.bias"], out[to_ours], bias[to_ours]


def _norm(read: _Weights, theirs: str, ours: str, to_ours: Tensor) -> dict[str, Tensor]:
    return {f"{ours}.{part}": read[f"{theirs}.{part}"][to_ours] for part in ("weight", "bias")}
