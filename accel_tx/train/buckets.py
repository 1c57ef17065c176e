"""The gradient buckets of DDP, known well enough to reduce some of them by hand.

DDP sums up a bucket of gradients over the processes as soon as the last backward pass of an update has filled it. Where
that pass ends early on one process, for want of memory, the others wait for its remaining buckets. It may fill these
later, from a backward pass of its own, and reduce them itself: nobody has to agree on anything, and nothing is lost.
"""

# Without `from __future__ import annotations`: DDP looks at the types that its hook is annotated with.
import weakref
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from accel_tx.data.batch import Batch
from accel_tx.data.collator import DataCollator


@dataclass(frozen=True)
class _Bucket:
    buffer: Tensor
    parameters: list[Tensor]
    views: list[Tensor]
    """Of `buffer`, one a parameter."""


class Buckets:
    """What DDP has begun to reduce of an update, and the rest by hand."""

    def __init__(self, model: DistributedDataParallel, device: torch.device) -> None:
        """All processes call it. `model` was made with `gradient_as_bucket_view`, and keeps no gradient."""
        self.model = model
        self._buckets: list[_Bucket] = []
        self._begun: list[torch.futures.Future[Tensor]] = []
        self._was_reset = False
        # DDP's C++ side keeps what it is given, where the garbage collector cannot see that it leads back to DDP.
        model.register_comm_hook(weakref.ref(self), _reduce)
        self._settle(DataCollator()([]).to(device))

    def _settle(self, nothing: Batch) -> None:
        """Let DDP choose its buckets: it does once, by the order of the gradients in the first backward pass.

        So they are the same from the first update on, also after a resume, and so is the order of the sums.
        """
        for _ in range(2):
            self.begin_update()
            self._buckets = []
            self.model(nothing, 0.0).backward()
        self.model.zero_grad()

    def begin(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        """Sum up the next bucket of this update over the processes."""
        if len(self._begun) == len(self._buckets):
            self._buckets.append(_Bucket(bucket.buffer(), bucket.parameters(), bucket.gradients()))
        self._begun.append(allreduce_hook(None, bucket))  # type: ignore[arg-type]
        return self._begun[-1]

    def begin_update(self) -> None:
        """Nothing is reduced yet."""
        self._begun = []
        if self._was_reset:
            # Else DDP would choose its buckets anew in the next forward pass, and wait for the others to do the same.
            self.model.reducer._reset_state()

    def begin_again(self) -> None:
        """Take all gradients off the parameters; what DDP reduces already goes on by itself."""
        self._was_reset = True
        self.model.reducer._reset_state()
        self.model.zero_grad()

    def finish(self) -> None:
        """Sum up the rest, from the gradients at the parameters, and put back what DDP has summed up."""
        n_begun = len(self._begun)
        for future in self._begun:
            future.wait()
        for bucket in self._buckets[n_begun:]:
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                view.copy_(parameter.grad)  # type: ignore[arg-type]
            bucket.buffer.div_(dist.get_world_size())
            dist.all_reduce(bucket.buffer)
        for bucket in self._buckets:
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                parameter.grad = view


def _reduce(
    buckets: "weakref.ref[Buckets]",
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    found = buckets()
    assert found is not None, "DDP outlives what trains it"
    return found.begin(bucket)
