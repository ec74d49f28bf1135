"""Where a server listens, as text."""


def host_and_port(host: str, port: int) -> str:
    """Returns `host:port`; an IPv6 address stands in brackets.

    Example:
      >>> host_and_port("::1", 8500)
      '[::1]:8500'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
