"""Analysis of attention: statistics, maps, plots."""
