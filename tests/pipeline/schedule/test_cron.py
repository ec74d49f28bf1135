import contextlib
import datetime
import shutil
import subprocess
import zoneinfo
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conveyor.errors import ConfigError
from pipeline.schedule.cron import Cron, zone

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
START = datetime.datetime(2026, 11, 22, 1, 0, tzinfo=BERLIN)  # a Sunday


def fires(text, count=3, start=START):
    trigger, found, now = Cron.of(text).trigger(BERLIN, 0), [], start
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
        ("0 0 30 2 *", "such a day never comes"),
        ("0 0 31 4,6,9,11 *", "such a day never comes"),
        ("60 3 * * *", "the minute is 60; expected such as 0, 0-59"),
        ("0 3 * * someday", "the weekday is someday; expected such as mon-fri"),
        ("0 9-3 * * *", "the hour is 9-3"),
        ("0 3 0 * *", "the day is 0"),
        ("5/10 * * * *", "the minute is 5/10"),
        ("0 3 * 13 *", '--cron "0 3 \\* 13 \\*": the month is 13; expected such as jan,jul or 1,7, from 1 to 12'),
        ("0 3 * * *; reboot", r"the month is \*;"),
        ("٣ 3 * * *", "the minute is ٣"),
    ],
)
def test_what_is_no_time_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Cron.of(text)


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("30 2 * * *", (2026, 10, 24), ["10-24 02:30:00", "10-25 02:30:00", "10-26 02:30:00"]),  # 02:30 comes twice
        ("30 2 * * *", (2026, 3, 28), ["03-28 02:30:00", "03-29 03:00:00", "03-30 02:30:00"]),  # 02:30 is left out
        ("0 * * * *", (2026, 10, 25, 1), ["10-25 01:00:00", "10-25 02:00:00", "10-25 02:00:00"]),  # every hour
    ],
)
def test_where_the_clock_changes(text, start, expected):
    assert fires(text, start=datetime.datetime(*start, tzinfo=BERLIN)) == expected


def test_the_values_of_each_field():
    times = Cron.of("5 3 * feb-mar 0,5-7").times
    assert times == {"second": (0,), "minute": (5,), "hour": (3,), "day": None, "month": (2, 3), "weekday": (0, 5, 6)}


def test_systemds_calendar():
    assert Cron.of("5 3 * * 7").calendar("UTC") == ["Sun *-*-* 03:05:00 UTC"]
    assert Cron.of("5 3 1 feb mon").calendar("UTC") == ["*-2-1 03:05:00 UTC", "Mon *-2-* 03:05:00 UTC"]


def test_a_range_of_one_is_one():
    assert fires("0 3 * * 3-3/4") == ["11-25 03:00:00", "12-02 03:00:00", "12-09 03:00:00"]  # Wednesdays alone
    assert fires("0 3 * * */7,1-1/2") == ["11-22 03:00:00", "11-23 03:00:00", "11-29 03:00:00"]  # Sundays and Mondays


def test_a_star_with_a_step_is_a_star():
    assert fires("0 3 */2 * 1") == ["11-23 03:00:00", "12-07 03:00:00", "12-21 03:00:00"]  # odd days that are Mondays


def test_jitter_moves_to_later_and_no_time_is_met_twice():
    trigger = Cron.of("0 3 * * *").trigger(BERLIN, 600)
    first = trigger.get_next_fire_time(None, START)
    second = trigger.get_next_fire_time(first, first)
    assert [time.day for time in (first, second)] == [22, 23]
    assert all(0 <= time.minute < 11 for time in (first, second))


def random_field(random, low, high, names=()):
    """Returns a field of a cron expression in one of its forms."""
    begin, end = sorted(random.sample(range(low, high + 1), 2))
    step = random.randint(1, max(1, (high - low) // 2))
    ranges = [f"{begin}-{end}", f"{begin}-{end}/{step}", f"{begin}-{begin}/{step}"]
    lists = [f"{begin},{end}", f"*/{step},{begin}-{begin}/{step}"]
    forms = ["*", "*", f"*/{step}", str(begin), *ranges, *lists, *names]
    return random.choice(forms)


def expressions(count):
    random, found = Random(7), []
    while len(found) < count:
        days = f"{random_field(random, 1, 31)} {random_field(random, 1, 12, ['feb', 'jan,Jul'])}"
        text = f"{random.randint(0, 59)} {random.randint(0, 23)} {days} {random_field(random, 0, 7, ['mon-fri'])}"
        with contextlib.suppress(ConfigError):  # such a day never comes
            found.append(Cron.of(text))
    return found


@pytest.mark.parametrize("cron", expressions(60), ids=lambda cron: cron.text)
def test_the_times_of_ten_years_are_what_the_fields_say(cron):
    """The fields make the units of systemd; the trigger's times come from a library that follows Debian's cron."""
    utc = datetime.timezone.utc
    start, end = datetime.datetime(2026, 1, 1, tzinfo=utc), datetime.datetime(2036, 1, 1, tzinfo=utc)
    trigger, found = cron.trigger(utc, 0), []
    while (due := trigger.get_next_fire_time(found[-1] if found else None, start)) < end:
        found.append(due)
    assert {(due.hour,) for due in found} <= {cron.times["hour"]}
    assert {(due.minute,) for due in found} <= {cron.times["minute"]}
    days = (start.date() + datetime.timedelta(number) for number in range((end - start).days))
    assert [due.date() for due in found] == [day for day in days if matches(cron, day)]


def matches(cron, day):
    values = {"day": day.day, "month": day.month, "weekday": day.isoweekday() % 7}
    return any(
        all(fields[name] is None or value in fields[name] for name, value in values.items())
        for fields in cron._alternatives()
    )


@given(st.one_of(st.text(), st.text("0123456789*/,- monfri", max_size=20)))
@example("0 3 * * *")
def test_any_text_is_an_expression_or_refused(text):
    with contextlib.suppress(ConfigError):
        cron = Cron.of(text)
        assert cron.trigger(BERLIN, 0).get_next_fire_time(None, START) >= START
        assert cron.calendar("UTC")


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
