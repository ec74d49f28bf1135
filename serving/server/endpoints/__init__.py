"""Where requests arrive: gRPC, REST, the calls behind both, and the metrics that count them."""
