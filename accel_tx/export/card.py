"""The model card: README.md with the header that the Hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accel_tx.config import Config
from accel_tx.export.source import Trained
from accel_tx.inference.weights import IMPORT_RECORD
from accel_tx.model.transformer import count_parameters
from accel_tx.train.file_system import read_json
from accel_tx.train.run_history import read_starts
from accel_tx.train.warm_start import ORIGIN


def model_card(trained: Trained, library: str, record: dict[str, Any], how_to_load: str) -> str:
    """The card of an exported model. `record`: of the export; `how_to_load`: a code block for this format."""
    data = trained.config.data
    title = f"Translation {data.src_lang} to {data.tgt_lang}"
    sections = [
        ("How to load it", how_to_load),
        ("The model", _model(trained)),
        ("Data", _data(trained)),
        ("Training", _training(trained)),
        ("Scores", _scores(trained)),
        ("This export", _export(record)),
        ("Limits", _limits(trained)),
    ]
    text = "\n\n".join(f"## {name}\n\n{content}" for name, content in sections)
    return f"---\n{_header(trained, library)}\n---\n\n# {title}\n\n{text}\n"


def _header(trained: Trained, library: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data, scores = trained.config.data, trained.scores
    results = [
        EvalResult(
            task_type="translation",
            task_name=f"Translation {data.src_lang}-{data.tgt_lang}",
            dataset_type=_corpus_name(trained.config),
            dataset_name=f"{_corpus_name(trained.config)}, validation",
            dataset_split="validation",
            metric_type=metric,
            metric_name=name,
            metric_value=round(scores[metric], 2),
            metric_args={"signature": scores[signature]},
        )
        for metric, name, signature in (("bleu", "BLEU", "signature"), ("chrf", "chrF", "chrf_signature"))
        if metric in scores and signature in scores
    ]
    header = ModelCardData(
        language=[data.src_lang, data.tgt_lang],
        library_name=library,
        pipeline_tag="translation",
        tags=["translation", "accel_tx"],
        model_name=f"{data.src_lang}-{data.tgt_lang}" if results else None,
        eval_results=results or None,
    ).to_yaml()
    # Only who publishes the model knows: it follows from the licence of the data.
    return f"# license: put the licence of these weights here, such as apache-2.0\n{header.strip()}"


def _model(trained: Trained) -> str:
    model, tokenizers = trained.config.model, trained.tokenizers
    sizes = sorted({tokenizers.src.vocab_size, tokenizers.tgt.vocab_size})
    vocabularies = (
        f"one of {sizes[0]:,} entries for both languages"
        if tokenizers.src is tokenizers.tgt
        else f"{tokenizers.src.vocab_size:,} entries (source) and {tokenizers.tgt.vocab_size:,} (target)"
    )
    origin = " of SentencePiece" if tokenizers.src.is_of_sentencepiece else ""
    rows = [
        ("parameters", f"{count_parameters(trained.model):,}"),
        ("layers executed", f"{model.n_encoder_layers} + {model.n_decoder_layers}"),
        (
            "layers with weights of their own",
            f"{len(trained.model.encoder_layers)} + {len(trained.model.decoder_layers)}",
        ),
        ("width, inner width, heads", f"{model.d_model}, {model.d_ff}, {model.n_heads}"),
        ("norm, activation", f"{model.norm}, {model.activation}"),
        ("positions", model.positions),
        ("embeddings tied", model.tie_embeddings),
        *([("trained for", "products of 8-bit integers")] if model.quantization == "int8" else []),
        ("longest text", f"{model.max_positions - 1:,} tokens"),
        ("vocabulary", f"{trained.config.tokenizer.kind}{origin}, {vocabularies}"),
    ]
    taken_from = _imported_from(trained)
    made = "trained with accel_tx" if taken_from is None else f"taken over from {taken_from}"
    return f"A Transformer with encoder and decoder, {made}.\n\n{_table(('', ''), rows)}"


def _data(trained: Trained) -> str:
    if _imported_from(trained) is not None:
        return "See the model that it was taken over from."
    report = read_json(trained.run_dir / "clean_report.json")
    lines = [f"Corpus: {_corpus_name(trained.config)}."]
    if begun_with := _begun_with(trained):
        lines.append(f"Training began with the weights {begun_with}; what those were trained on is not known here.")
    if "n_read" in report and "n_kept" in report:
        lines.append(f"{report['n_kept']:,} of {report['n_read']:,} pairs were kept by the cleaning rules.")
        dropped = [(name, f"{n:,}") for name, n in report.get("dropped", {}).items() if n]
        if dropped:
            return " ".join(lines) + "\n\n" + _table(("dropped by", "pairs"), dropped)
    return " ".join(lines)


def _imported_from(trained: Trained) -> str | None:
    """The model of another program that these weights are, as they are; None for weights that were trained here."""
    record = read_json(trained.run_dir / IMPORT_RECORD)
    return f"`{record['model']}` ({record['weights']}, SHA-256 {record['sha256']})" if "model" in record else None


def _training(trained: Trained) -> str:
    if _imported_from(trained) is not None:
        return "See the model that it was taken over from; it was not trained any further."
    optim, train = trained.config.optim, trained.config.train
    of_tokens = f"{train.max_tokens} tokens (the longer side of each pair)"
    size = of_tokens if train.max_tokens is not None else f"{train.batch_size} pairs"
    trained_s, begun_with = trained.scores.get("trained_s"), _begun_with(trained)
    rows = [
        ("updates of these weights", f"{trained.scores.get('update', 'unknown')}"),
        *([("began with the weights", begun_with)] if begun_with else []),
        ("micro-batches", f"{train.micro_batches_per_update} of {size} an update"),
        ("highest rate", f"{optim.max_lr:g}"),
        ("label smoothing", f"{optim.label_smoothing:g}"),
        *([("R-Drop", f"{optim.r_drop:g}")] if optim.r_drop else []),
        (
            "dropout",
            f"{trained.config.model.dropout:g}, on attention weights {trained.config.model.attention_dropout:g}",
        ),
        ("precision", _precision(trained)),
        ("seed", f"{train.seed}"),
        *([("minutes", f"{trained_s / 60:.1f}")] if trained_s else []),
    ]
    return _table(("setting", "value"), rows)


def _begun_with(trained: Trained) -> str | None:
    """The weights that `--init_from` named, without the folders that they lay in on this machine; None for random."""
    origin = read_json(trained.run_dir / ORIGIN)
    if "weights" not in origin:
        return None
    path = Path(str(origin["weights"]))
    of_run = path.name in ("best", "final", "average") or path.parent.name in ("checkpoints", "validated")
    n_parts = (3 if path.parent.name in ("checkpoints", "validated") else 2) if of_run else 1
    known = [f"update {origin['update']}"] if origin.get("update") is not None else []
    known += [f"SHA-256 {origin['sha256']}"] if "sha256" in origin else []
    known += [f"of `{origin['imported']}`"] if "imported" in origin else []
    name = "/".join(path.parts[-n_parts:])
    return f"`{name}` ({', '.join(known)})" if known else f"`{name}`"


def _precision(trained: Trained) -> str:
    """That of the starts that made these weights, where they are known: the config may say `auto`."""
    update = trained.scores.get("update")
    starts = [line for line in read_starts(trained.run_dir) if update is None or line["update"] < update]
    found = dict.fromkeys(str(line["precision"]) for line in starts if "precision" in line)
    names = ["float32" if name == "no" else name for name in found or [trained.config.train.precision]]
    return ", then ".join(names)


def _scores(trained: Trained) -> str:
    scores = trained.scores
    if not all(name in scores for name in ("bleu", "chrf", "val_loss", "signature", "chrf_signature")):
        return "These weights have not been validated by their run."
    loss = scores["val_loss"]
    rows = [
        ("BLEU", f"{scores['bleu']:.2f}"),
        ("chrF", f"{scores['chrf']:.2f}"),
        ("loss, nats a target token", "not finite" if loss is None else f"{loss:.3f}"),
    ]
    beam_size = trained.config.validation.beam_size
    search = "greedy search" if beam_size == 1 else f"a beam of {beam_size}"
    return (
        f"On the run's whole validation text with {search}. The same text may have chosen the weights, so a test text "
        f"that nothing was chosen by can score lower.\n\n{_table(('metric', 'score'), rows)}\n\n"
        # Not in the table: there the bars of a signature would end cells.
        f"- BLEU `{scores['signature']}`\n- chrF `{scores['chrf_signature']}`"
    )


def _export(record: dict[str, Any]) -> str:
    sentences, speed = record["sentences"], record["sentences_per_s"]
    text = (
        f"Format {record['format']}, {record['quantization']}. Before it was written, {sentences['identical']} "
        f"of {sentences['n']} sentences ({sentences['from']}) were translated identically by accel_tx and by "
        f"{record['runtime']}, both greedily, at {speed['accel_tx']:,} and {speed['exported']:,} sentences/s on one "
        "thread of the same CPU."
    )
    if "bleu" in record:
        bleu = record["bleu"]
        text += f" BLEU on them: {bleu['accel_tx']:.2f} and {bleu['exported']:.2f} (`{bleu['signature']}`)."
    return f"{text} `export.json` has these numbers."


def _limits(trained: Trained) -> str:
    data, tags = trained.config.data, read_json(trained.run_dir / IMPORT_RECORD).get("tags")
    longest = trained.config.model.max_positions - 1  # beside EOS
    lines = [
        f"It translates from {data.src_lang} to {data.tgt_lang} only, each sentence without the text around it."
        if not tags
        else f"A source begins with the language to translate into, such as {tags[0]}.",
        "It is as good and as biased as its data; text of another kind is translated worse, and nothing says so.",
        "A translation can be fluent and wrong. Have a person check what matters.",
        f"A text of more than {longest:,} tokens does not fit: accel_tx splits it, other programs fail or cut it off.",
    ]
    if not trained.tokenizers.src.knows_every_text:
        lines.append("Words or characters that the vocabulary lacks are unknown to it; only accel_tx copies them.")
    return "\n".join(f"- {line}" for line in lines)


def _corpus_name(config: Config) -> str:
    """Without the folders that it lies in on this machine."""
    data = config.data
    names = [data.train_src, data.train_tgt] if data.train_src else [entry.name for entry in data.entries()]
    return ", ".join(Path(name).name if Path(name).is_absolute() else name for name in names if name)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
