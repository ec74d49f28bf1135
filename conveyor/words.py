"""Numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: `1 image`, `2,000 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
