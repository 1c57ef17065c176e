"""The `export` command: a trained model in the formats of other programs, each proved to translate as ours does."""
