"""What holds the models: versions and their states, loading, sessions, batches."""
