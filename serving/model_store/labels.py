"""The labels of a model's versions: `stable` serves, `canary` is tried beside it, `previous` served before."""

import dataclasses
from typing import Any

STABLE, CANARY = "stable", "canary"  # those that a server is told of
NAMES = (STABLE, CANARY, "previous")


@dataclasses.dataclass(frozen=True)
class Labels:
    """A model's labels.

    Attributes:
      stable: the version that serves; None where there is none.
      canary: the version that is tried beside it.
      previous: the version that served before, and that a rollback returns to.
      withdrawn: identities of the models that a person took back; none of them gets a label again by a push.
    """

    stable: int | None = None
    canary: int | None = None
    previous: int | None = None
    withdrawn: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: Any, versions: list[int]) -> "Labels":
        """Returns the labels in a file's fields, of versions that are there.

        Where nobody ever set one, or the stable version was deleted by hand, the previous one is stable, or the newest.

        Raises:
          KeyError, TypeError: the fields are not those of labels.
        """
        stable, canary, previous = (fields[name] if fields[name] in versions else None for name in NAMES)
        if stable is None:
            stable, previous = previous or max((v for v in versions if v != canary), default=canary), None
            canary = None if canary == stable else canary
        return cls(stable, canary, previous, tuple(map(str, fields.get("withdrawn", ()))))

    def with_stable(self, version: int) -> "Labels":
        """Returns the labels after a version has become the stable one."""
        canary = None if self.canary == version else self.canary
        previous = self.previous if version == self.stable else self.stable
        return Labels(version, canary, previous, self.withdrawn)

    def with_decision(self, withdrawn: str | None, restored: str) -> "Labels":
        """Returns the labels after a person took one model back, or none, and made another stable."""
        others = [identity for identity in self.withdrawn if identity not in (withdrawn, restored)]
        added = [withdrawn] if withdrawn and withdrawn != restored else []
        return dataclasses.replace(self, withdrawn=(*others, *added))

    def with_pushed(self, version: int, as_canary: bool) -> "Labels":
        """Returns the labels after a version was pushed: to be tried beside the stable one, or in its place."""
        if as_canary and self.stable not in (None, version):
            return dataclasses.replace(self, canary=version)
        return self.with_stable(version)

    def of_version(self, version: int) -> list[str]:
        """Returns the labels of a version."""
        return [name for name in NAMES if getattr(self, name) == version]

    @property
    def served(self) -> dict[str, int]:
        """The versions that a server is told of, by label."""
        return {name: number for name, number in ((STABLE, self.stable), (CANARY, self.canary)) if number is not None}
