"""I-JEPA and StoP, as an external method of the pretrainer."""
