"""Mathematics of unit vectors: direction, nearest, clusters, and choices by key."""
