"""From one work item to many: in this process, on workers, in jobs of Slurm; and grids of experiments."""
