"""From decoder output to the log-probabilities of the next token: the widest matrix product of a search."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.inference.constraints import Constraints
from accel_tx.model.transformer import Transformer


class NextTokens:
    """The vocabulary of a model as what may come next.

    Shapes: N hypotheses; hidden (N, D) their decoder output; sentences (N,) the index of each one's in the batch;
    history (N, position) what they hold.
    """

    def __init__(self, model: Transformer) -> None:
        self.weight, self.bias = model.projection, model.output_bias
        self.vocab_size = len(model.output_bias)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities (N, V), in at least float32."""
        logits = F.linear(hidden, self.weight, self.bias)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

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

    def best(
        self, hidden: Tensor, n: int, constraints: Constraints, sentences: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and ids (N, n) of the best next tokens, best first; -inf where fewer are allowed."""
        log_probs, _ = self.allowed(hidden, constraints, sentences, history)
        return tuple(log_probs.topk(n, dim=-1))  # type: ignore[return-value]
