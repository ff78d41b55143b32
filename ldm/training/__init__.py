"""Training priors with Lightning: losses, optimisation, averages, and the folder of a run."""
