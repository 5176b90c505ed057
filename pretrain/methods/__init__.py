"""Method room: self-distillation and its losses."""
