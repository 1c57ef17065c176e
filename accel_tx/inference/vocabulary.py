"""From decoder output to the log-probabilities of the next token: the widest matrix product of a search."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.config import RunError
from accel_tx.inference.constraints import Constraints
from accel_tx.inference.ensemble import Ensemble, Model, mean_of_probs, members_of
from accel_tx.model.transformer import Transformer

# On a CPU so many logits are computed at a time, which its caches hold: 2^21 float32 are 8 MiB.
_LOGITS_PER_BLOCK = 1 << 21
# Columns of a run in `largest`.
_RUN = 64


class NextTokens:
    """The vocabulary of a model as what may come next.

    Shapes: N hypotheses; hidden (N, D) their decoder output; sentences (N,) the index of each one's in the batch;
    history (N, position) what they hold.
    """

    def __init__(self, model: Transformer) -> None:
        self.weight, self.bias = model.logits_matrix(), model.output_bias
        self._inputs = model.logits_inputs
        self.vocab_size = len(model.output_bias)
        self._buffers: dict[str, Tensor] = {}

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities (N, V), in at least float32; the next call may overwrite them."""
        hidden, dtype = self._inputs(hidden), torch.promote_types(hidden.dtype, torch.float32)
        if hidden.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return F.linear(hidden, self.weight, self.bias).to(dtype).log_softmax(-1)
        # Fresh memory of this size would cost as much as the product itself.
        logits = self._buffer("logits", len(hidden), hidden.dtype)
        torch.addmm(self.bias, hidden, self.weight.t(), out=logits)
        if logits.dtype != dtype:
            logits = self._buffer("raised", len(hidden), dtype).copy_(logits)
        return torch.log_softmax(logits, -1, out=self._buffer("log_probs", len(hidden), dtype))

    def _buffer(self, name: str, n_rows: int, dtype: torch.dtype) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < n_rows:
            buffer = self._buffers[name] = self.bias.new_empty((n_rows, self.vocab_size), dtype=dtype)
        return buffer[:n_rows]

    def allowed(
        self, hidden: Tensor, constraints: Constraints, sentences: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (N, V), -inf for what must not come next; and the token (N,) that must, or -1.

        None in place of the latter if none of them must have a certain token.
        """
        log_probs = self.log_probs(hidden)
        forced = constraints.forced_at(history.shape[1])
        if forced is None:
            constraints.forbid(log_probs, sentences, history)
            return log_probs, None
        forced = forced[sentences]
        at_forced = forced.clamp(min=0)[:, None]
        kept = log_probs.gather(1, at_forced)
        constraints.forbid(log_probs, sentences, history)
        must = forced >= 0
        log_probs[must] = -torch.inf
        log_probs[must] = log_probs[must].scatter(1, at_forced[must], kept[must])
        return log_probs, forced

    def blocks(self, hidden: Tensor) -> list[slice]:
        """The rows of hidden (N, D) to take at a time: on a CPU as many as its caches hold the logits of, else all."""
        size = len(hidden)
        if hidden.device.type == "cpu":
            size = min(size, max(1, _LOGITS_PER_BLOCK // self.vocab_size))
        return [slice(start, start + size) for start in range(0, len(hidden), size)]

    def best(
        self, hidden: Tensor, n: int, constraints: Constraints, sentences: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and ids (N, n) of the best next tokens, best first; -inf where fewer are allowed."""
        parts = []
        for block in self.blocks(hidden):
            log_probs, _ = self.allowed(hidden[block], constraints, sentences[block], history[block])
            parts.append(largest(log_probs, n))
        if len(parts) == 1:
            return parts[0]
        values, ids = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(ids)


class MixedNextTokens(NextTokens):
    """The same of an ensemble: by the mean of its members' probabilities.

    Shapes: hidden (N, D), the members' outputs side by side as `Decoding.step` gives them.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        first, *others = ensemble.members
        super().__init__(first)
        self._others = [NextTokens(member) for member in others]
        self._widths = [member.config.d_model for member in ensemble.members]

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Of the mixture."""
        own, *others = torch.split(hidden, self._widths, dim=-1)
        found = [next_tokens.log_probs(states) for next_tokens, states in zip(self._others, others, strict=True)]
        return mean_of_probs([super().log_probs(own), *found])


def next_tokens_of(model: Model) -> NextTokens:
    """What may come next by one model, or by an ensemble."""
    return MixedNextTokens(model) if isinstance(model, Ensemble) else NextTokens(model)


def not_finite(model: Model) -> RunError:
    """What to raise where the model's probabilities are not finite, though its weights are: that is seen at loading."""
    first = members_of(model)[0]  # members compute in one type
    device, dtype = first.positions.device.type, first.projection.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return RunError(
        f"the model's scores are not finite: its activations overflow in {str(dtype).removeprefix('torch.')}; "
        "expected a type of more range, such as --precision float32, or other weights"
    )


def largest(values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest values (N, n) of each row of (N, V), largest first, and where they stand.

    `topk` looks at a row element by element on a CPU. The n largest stand in the n runs of columns whose maxima are the
    largest, so that it need only look at the maxima, and then into those runs.
    """
    n_rows, width = values.shape
    n_runs = width // _RUN
    if values.device.type != "cpu" or n_runs < 4 * n:
        return tuple(values.topk(n))  # type: ignore[return-value]
    maxima = values.unfold(1, _RUN, _RUN).amax(-1)  # (N, n_runs)
    runs = maxima.topk(n, sorted=False).indices
    places = (runs[:, :, None] * _RUN + torch.arange(_RUN)).flatten(1)
    beyond = torch.arange(n_runs * _RUN, width).expand(n_rows, -1)
    places = torch.cat([places, beyond], dim=1)
    found, best = values.gather(1, places).topk(n)
    return found, places.gather(1, best)
