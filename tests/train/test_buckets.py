"""The hook on DDP's buckets holds nothing alive."""

from __future__ import annotations

import gc
import weakref

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from accel_tx.config import ModelConfig
from accel_tx.model.transformer import Transformer
from accel_tx.train.buckets import Buckets


def test_the_model_goes_before_the_process_group_does() -> None:
    """Else its reducer holds the group while that is destroyed."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = Transformer(ModelConfig(d_model=8, d_ff=8, n_heads=2, n_encoder_layers=1, n_decoder_layers=1), 20, 20)
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        buckets = Buckets(wrapped, torch.device("cpu"))
        left = [weakref.ref(one) for one in (model, wrapped, buckets)]
        del model, wrapped, buckets
        gc.collect()
        assert [one() for one in left] == [None] * 3
    finally:
        dist.destroy_process_group()
