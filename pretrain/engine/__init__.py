"""Trainer, schedules, parameter groups, checkpoints."""
