"""Features of a frozen encoder, linear evaluation and kNN."""
