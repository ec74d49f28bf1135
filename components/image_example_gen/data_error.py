"""What is said of files that cannot be used; apart from the readers, which need libraries that take time to import."""

from pathlib import Path

from conveyor.errors import ConveyorError

GZIP = ".gz"
LISTED = 50  # sentences in one message


class DataError(ConveyorError):
    """Files that cannot be used: says which, where in them, what was expected and what is there.

    Attributes:
      sentences: one for each file.
    """

    def __init__(self, *sentences: str) -> None:
        self.sentences = sentences
        more = [f"... and {len(sentences) - LISTED} more"] if len(sentences) > LISTED else []
        head = [f"{len(sentences)} files cannot be used:"] if len(sentences) > 1 else []
        super().__init__("\n".join([*head, *sentences[:LISTED], *more]))

    @classmethod
    def at(cls, path: Path, offset: int | None, expected: str, found: str) -> "DataError":
        """Returns the error of one place in a file, or of the file as a whole where `offset` is None.

        In a gzipped file it is the place in the content.
        """
        where = "" if offset is None else f" at byte {offset}{' of its content' if path.suffix == GZIP else ''}"
        return cls(f"{path}{where}: expected {expected}, found {found}.")


def unpacked(path: Path) -> Path:
    """Returns the path that a file has without gzip."""
    return path.with_suffix("") if path.suffix == GZIP else path
