"""A Dask cluster on all nodes of a Slurm job, for as long as a command runs."""
