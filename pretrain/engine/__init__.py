"""Engine room: trainer, schedules, parameter groups, checkpoints."""
