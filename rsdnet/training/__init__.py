"""The step, the optimizers, and the run with its checkpoints."""
