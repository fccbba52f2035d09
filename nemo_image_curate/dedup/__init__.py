"""Find duplicates: exact, perceptual, semantic."""
