"""Reads cron expressions, once, for every scheduler that a retraining may be handed to.

Source: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/crontab.html; names, steps and CRON_TZ as in cronie;
https://www.freedesktop.org/software/systemd/man/latest/systemd.time.html#Calendar%20Events
"""

import dataclasses
import datetime
import re
import zoneinfo

from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim, CronSimError

from conveyor.errors import ConfigError

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_RANGES = {"second": (0, 59), "minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
_ANY_DAY = datetime.datetime(2026, 1, 1)
_ITEM = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/([1-9]\d*))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Cron:
    """A cron expression: five fields, or six with seconds before them.

    Attributes:
      text: as it was written.
      times: the values that each field matches, by the names second, minute, hour, day, month and weekday (0: Sunday);
        None for all.
    """

    text: str
    times: dict[str, tuple[int, ...] | None]

    @classmethod
    def of(cls, text: str) -> "Cron":
        """Reads an expression such as `0 3 * * mon-fri`.

        Raises:
          ConfigError: says which field is wrong, and what it may be.
        """
        fields = text.split()
        if len(fields) not in (5, 6):
            raise ConfigError(
                f'--cron "{text}": expected five fields, minute hour day month weekday, as in "0 3 * * *".'
            )
        padded = ["0", *fields] if len(fields) == 5 else fields
        times = {name: _values(name, field, text) for name, field in zip(_RANGES, padded, strict=True)}
        if times["weekday"] is not None:
            times["weekday"] = tuple(sorted({day % 7 for day in times["weekday"]}))
        cron = cls(" ".join(fields), times)
        try:
            next(CronSim(cron._numbers(), _ANY_DAY))
        except (CronSimError, StopIteration):
            raise ConfigError(f'--cron "{text}": such a day never comes.') from None
        return cron

    @property
    def has_seconds(self) -> bool:
        """Whether it says more than cron and Kubernetes understand."""
        return len(self.text.split()) == 6

    def trigger(self, timezone: datetime.tzinfo, jitter: int) -> BaseTrigger:
        """Returns APScheduler's trigger.

        Args:
          timezone: what the hours are in.
          jitter: each time is moved by up to so many seconds, to later.
        """
        return _CronTrigger(self._numbers(), timezone, jitter)

    def calendar(self, timezone: str) -> list[str]:
        """Returns systemd's calendar expressions."""
        lines = []
        for fields in self._alternatives():
            days = fields["weekday"]
            weekdays = "" if days is None else ",".join(DAYS[day].title() for day in days) + " "
            date = f"*-{_listed(fields['month'])}-{_listed(fields['day'])}"
            clock = ":".join(_listed(fields[name], 2) for name in ("hour", "minute", "second"))
            lines.append(f"{weekdays}{date} {clock} {timezone}")
        return lines

    def _numbers(self) -> str:
        """Returns the expression for CronSim, with numbers for all but stars: it takes `3-3/4` for `3/4`."""
        fields = self.text.split()
        values = [self.times[name] for name in list(_RANGES)[-len(fields) :]]
        return " ".join(
            field if numbers is None else ",".join([*_star(field), *map(str, numbers)])
            for field, numbers in zip(fields, values, strict=True)
        )

    def _alternatives(self) -> list[dict[str, tuple[int, ...] | None]]:
        """Returns one set of fields, or two: where neither kind of days begins with a star, either will do."""
        *_, day, _, weekday = self.text.split()
        if day.startswith("*") or weekday.startswith("*"):
            return [self.times]
        return [self.times | {"weekday": None}, self.times | {"day": None}]


class _CronTrigger(BaseTrigger):
    """The times of an expression, as Debian's cron has them.

    Where the clock goes back, a job of a certain hour runs once; where it goes forward over the hour, right after that.
    """

    def __init__(self, text: str, timezone: datetime.tzinfo, jitter: int) -> None:
        self._text, self._timezone, self._jitter = text, timezone, jitter

    def get_next_fire_time(
        self, previous_fire_time: datetime.datetime | None, now: datetime.datetime
    ) -> datetime.datetime | None:
        after = previous_fire_time or now - datetime.timedelta(microseconds=1)
        due = next(CronSim(self._text, after.astimezone(self._timezone)), None)
        return self._apply_jitter(due, self._jitter or None, now)


def zone(name: str | None) -> zoneinfo.ZoneInfo:
    """Returns a time zone by its name, or this machine's.

    Raises:
      ConfigError: there is no such zone.
    """
    import tzlocal

    try:
        return zoneinfo.ZoneInfo(name or tzlocal.get_localzone_name())
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(
            f"--timezone {name}: there is no such zone; give one such as Europe/Berlin or UTC."
        ) from error


def have_same_time(one: zoneinfo.ZoneInfo, other: zoneinfo.ZoneInfo) -> bool:
    """Whether two zones have the same time on every day of this year and the next."""
    first = datetime.datetime(datetime.datetime.now(datetime.timezone.utc).year, 1, 1, 12)
    days = [first + datetime.timedelta(days=number) for number in range(2 * 366)]
    return all(day.replace(tzinfo=one).utcoffset() == day.replace(tzinfo=other).utcoffset() for day in days)


def _values(name: str, field: str, text: str) -> tuple[int, ...] | None:
    if field == "*":
        return None
    low, high = _RANGES[name]
    found: set[int] = set()
    for item in _numbered(name, field.lower()).split(","):
        match = _ITEM.fullmatch(item)
        begin, end = (int(match[1]), int(match[2] or match[1])) if match and match[1] else (low, high)
        if not match or not low <= begin <= end <= high or (match[3] and match[1] and not match[2]):
            example = {"weekday": "mon-fri or 1-5", "month": "jan,jul or 1,7"}.get(name, f"{low}, {low}-{high} or */5")
            raise ConfigError(
                f'--cron "{text}": the {name} is {field}; expected such as {example}, from {low} to {high}.'
            )
        found |= set(range(begin, end + 1, int(match[3] or 1)))
    return tuple(sorted(found))


def _numbered(name: str, field: str) -> str:
    names = {"month": dict(zip(MONTHS, range(1, 13), strict=True)), "weekday": dict(zip(DAYS, range(7), strict=True))}
    for word, number in names.get(name, {}).items():
        field = re.sub(rf"\b{word}\b", str(number), field)
    return field


def _star(field: str) -> list[str]:
    """Returns the star that a field begins with, and its step: cron asks for it before it asks which days match."""
    first = field.partition(",")[0]
    return [first] if first.startswith("*") else []


def _listed(values: tuple[int, ...] | None, digits: int = 1) -> str:
    return "*" if values is None else ",".join(f"{value:0{digits}d}" for value in values)
