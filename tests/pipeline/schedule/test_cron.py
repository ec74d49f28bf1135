import datetime
import shutil
import subprocess
import zoneinfo

import pytest

from conveyor.errors import ConfigError
from pipeline.schedule.cron import Cron, zone

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
START = datetime.datetime(2026, 11, 22, 1, 0, tzinfo=BERLIN)  # a Sunday


def fires(text, count=3):
    trigger, found, now = Cron.of(text).trigger(BERLIN, 0), [], START
    for _ in range(count):
        found.append(trigger.get_next_fire_time(found[-1] if found else None, now))
        now = found[-1] + datetime.timedelta(microseconds=1)
    return [f"{time:%m-%d %H:%M:%S}" for time in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 3 * * *", ["11-22 03:00:00", "11-23 03:00:00", "11-24 03:00:00"]),
        ("*/20 1-2 * * *", ["11-22 01:00:00", "11-22 01:20:00", "11-22 01:40:00"]),
        ("0 3 * * 0", ["11-22 03:00:00", "11-29 03:00:00", "12-06 03:00:00"]),  # Sunday, and not APScheduler's Monday
        ("0 3 * * 7", ["11-22 03:00:00", "11-29 03:00:00", "12-06 03:00:00"]),
        ("0 3 * * mon-tue", ["11-23 03:00:00", "11-24 03:00:00", "11-30 03:00:00"]),
        ("0 3 1 * mon", ["11-23 03:00:00", "11-30 03:00:00", "12-01 03:00:00"]),  # either day will do, as in cron
        ("0 0 1 feb,jan *", ["01-01 00:00:00", "02-01 00:00:00", "01-01 00:00:00"]),
        ("*/30 * * * * *", ["11-22 01:00:00", "11-22 01:00:30", "11-22 01:01:00"]),
    ],
)
def test_times(text, expected):
    assert fires(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 3 * *", "expected five fields"),
        ("60 3 * * *", "the minute is 60; expected such as 0, 0-59"),
        ("0 3 * * someday", "the weekday is someday; expected such as mon-fri"),
        ("0 9-3 * * *", "the hour is 9-3"),
        ("0 3 0 * *", "the day is 0"),
        ("5/10 * * * *", "the minute is 5/10"),
        ("0 3 * * *; reboot", r"the month is \*;"),
    ],
)
def test_what_is_no_time_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Cron.of(text)


def test_zone():
    assert str(zone("Europe/Berlin")) == "Europe/Berlin"
    assert zone(None) is not None
    for name in ("Nowhere", "../../etc/passwd"):
        with pytest.raises(ConfigError, match="there is no such zone"):
            zone(name)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("text", ["0 3 * * *", "*/20 1-2 * * *", "0 3 * * 0", "0 3 * * mon-tue", "15 4 1,20 jan,jul *"])
def test_systemd_reads_the_same_times(text):
    (expression,) = Cron.of(text).calendar("Europe/Berlin")
    base = START.astimezone(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = ["systemd-analyze", "calendar", "--iterations=3", f"--base-time={base}", expression]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"TZ": "Europe/Berlin", "LANG": "C"})
    lines = [line.split(": ")[1] for line in done.stdout.splitlines() if "Next elapse" in line or "Iter" in line]
    seen = [" ".join(line.split()[1:3])[5:] for line in lines]
    trigger = Cron.of(text).trigger(BERLIN, 0)
    found = []
    for _ in range(3):
        # systemd's next time is after the base, APScheduler's may be at it
        now = (found[-1] if found else START) + datetime.timedelta(microseconds=1)
        found.append(trigger.get_next_fire_time(None, now))
    assert seen == [f"{time:%m-%d %H:%M:%S}" for time in found]
