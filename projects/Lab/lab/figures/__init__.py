"""Pictures and figures of what was learnt."""
