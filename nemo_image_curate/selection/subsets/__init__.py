"""Which subset of a dataset is better to train on, by small heads on frozen features."""
