"""How fast and how small, each against the plain implementation that is kept here for the comparison."""
