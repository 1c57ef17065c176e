"""The encoder-decoder Transformer and its loss."""
