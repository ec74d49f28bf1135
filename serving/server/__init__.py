"""A server in Python that speaks the protocol of TensorFlow Serving."""
