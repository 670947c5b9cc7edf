"""Many runs and their ranking: `python -m benches.learning`."""
