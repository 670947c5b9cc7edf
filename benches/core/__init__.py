"""The harness of every benchmark: peers, correctness first, turns, a clock, and one schema of rows."""
