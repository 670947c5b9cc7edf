"""Encoders, heads, and BatchNorm over ranks."""
