"""The `bench` command: speed, memory and padding of the training, beside baselines that run in the same command."""
