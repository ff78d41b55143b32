"""From what a scanner wrote to a problem that a solver takes: noise, coils, phase, scale."""
