"""From one work item to many: in this process, or on dask workers; and their progress."""
