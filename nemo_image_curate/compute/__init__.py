"""Where work is done: Dask clients, jobs, what a worker keeps, and what its device can do."""
