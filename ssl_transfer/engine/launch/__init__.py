"""Launch several runs: one after the other, in worker processes, or on Slurm."""
