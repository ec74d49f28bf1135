"""What the server speaks: requests and their checks, tensors, JSON, status codes, configuration files."""
