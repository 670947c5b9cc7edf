"""What `bench_step` and `end_to_end` share: settings, contenders, turns side by side, ceilings, rows."""
