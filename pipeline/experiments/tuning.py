"""Which values of an experiment's settings `conveyor tune` tries."""

from typing import Annotated

from pydantic import Field

from conveyor.errors import ConfigError
from conveyor.numbers import exact
from conveyor.settings import settings

Number = int | float
MOST_STEPS = 10_000  # of a range
TUNED = ("network", "training")  # what a training is made of


@settings("choice")
class Choice:
    """Some values of a setting.

    Attributes:
      values: two or more, all of one type.
    """

    values: Annotated[tuple[int | float | str | bool, ...], Field(strict=False)]

    def __post_init__(self) -> None:
        if len(set(map(repr, self.values))) < max(2, len(self.values)) or len({type(v) for v in self.values}) > 1:
            raise ConfigError(f"choice.values is {self.values}; it must be two or more different values of one type.")

    @property
    def ends(self) -> tuple[object, ...]:
        """Values that must all be ones that the setting takes."""
        return self.values


@settings("range")
class Range:
    """All values of a setting between two.

    Attributes:
      low: the smallest; a range of two integers has integers alone.
      high: the largest; with a step, the last one that is not above it.
      step: the distance of neighbours; None for any value. An integer, where the ends are integers.
      log: whether each factor is as likely as another, as for learning rates, and not each distance.
    """

    low: Number
    high: Number
    step: Number | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(f"range.low is {self.low}; it must be below range.high, which is {self.high}.")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigError(f"range.log is for ranges above zero and without a step; this one is from {self.low}.")
        if self.step is None:
            return
        distance = exact(self.high) - exact(self.low)
        if not 0 < exact(self.step) <= distance:
            raise ConfigError(f"range.step is {self.step}; it must be above zero, and at most {float(distance):g}.")
        if distance / exact(self.step) > MOST_STEPS:
            raise ConfigError(f"range.step is {self.step}; it makes more than {MOST_STEPS:,} values: leave it out.")
        if isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, int):
            raise ConfigError(f"range.step is {self.step}; between two integers it must be one: write {self.low}.0.")

    @property
    def ends(self) -> tuple[object, ...]:
        """Values that must all be ones that the setting takes."""
        if self.step is None:
            return (self.low, self.high)
        last = exact(self.low) + (exact(self.high) - exact(self.low)) // exact(self.step) * exact(self.step)
        return (self.low, type(self.high)(last))


@settings("tuning")
class Tuning:
    """What `conveyor tune` tries.

    Attributes:
      ranges: by setting, such as `network.width` or `training.batch_size`, the values to try.
      seed: of the search.
    """

    ranges: dict[str, Choice | Range] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=1, lt=2**31)] = 2019

    def __post_init__(self) -> None:
        for name in self.ranges:
            if name.partition(".")[0] not in TUNED or name.count(".") != 1:
                raise ConfigError(f"tuning.ranges names {name!r}; it must be a setting of {' or '.join(TUNED)}.")
