"""From databases to batches of raw bands on the device."""
