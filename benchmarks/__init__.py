"""Benchmarks: `python -m pytest benchmarks` for the CPU, `python -m benchmarks.report` for the README's table."""
