"""The server's page: a person draws or drops a picture and sees the scores and the network's activations."""
