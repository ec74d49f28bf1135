"""Retraining by the clock: our own daemon, cron expressions, notifications, and files for other schedulers."""
