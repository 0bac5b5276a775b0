"""Fan-out of work items, in this process or on dask workers, and their progress."""
