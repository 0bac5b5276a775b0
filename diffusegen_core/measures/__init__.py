"""Numbers from images and masks: features, distances, copies, overlap, and their intervals."""
