"""Benchmarks of time and memory against plain reference implementations."""
