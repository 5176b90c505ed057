"""Self-distillation and its losses."""
