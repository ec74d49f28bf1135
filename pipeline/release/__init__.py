"""Which version serves, and serving it: promotion, rollout, backends, predictions, load tests."""
