"""The command line in float64, where sums in another order agree to 1e-10: started by test_processes.py."""

import torch

from accel_tx.cli import main

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
