"""The prior: networks, schedules, training, checkpoints. Knows nothing of measurements."""
