"""Networks: from a noisy state and a noise level to an estimate. They know nothing of schedules or training."""
