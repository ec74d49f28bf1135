"""Numbers and addresses in text."""


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: `1 image`, `2,000 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def host_and_port(host: str, port: int) -> str:
    """Returns `host:port`; an IPv6 address stands in brackets.

    Example:
      >>> host_and_port("::1", 8500)
      '[::1]:8500'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
