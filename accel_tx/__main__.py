"""`python -m accel_tx`, also under `accelerate launch -m accel_tx`."""

from accel_tx.cli import main

if __name__ == "__main__":
    main()
