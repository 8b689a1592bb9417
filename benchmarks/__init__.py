"""Benchmarks: every number is a ratio from one run, each client a process of its own against one sandbox process."""
