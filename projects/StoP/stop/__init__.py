"""StoP and I-JEPA: a second method for the pretrainer, as a guest."""
