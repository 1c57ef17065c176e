"""accel_tx: train encoder-decoder Transformers for machine translation on HuggingFace Accelerate."""

__version__ = "0.1.0"
