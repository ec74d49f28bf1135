import http.server
import json
import sys
import threading

import pytest

from conveyor.errors import ConfigError
from pipeline.schedule.notify import EVENTS, Notifier

OUTCOME = {
    "experiment": "mnist", "verdict": "pushed", "version": 4, "label": "stable", "accuracy": 0.985, "baseline": 0.98,
    "reasons": [], "drift": ["label: too far"], "exit_code": 0,
}  # fmt: skip


@pytest.fixture
def webhook():
    """A local server, and the messages that it was sent."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, json.loads(body)))
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"json://user:s3cret@127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("verdict", EVENTS)
def test_every_verdict_is_told(webhook, verdict):
    url, received = webhook
    assert Notifier((f"{url}/hook",)).tell(OUTCOME | {"verdict": verdict}) == []
    ((path, message),) = received
    assert path == "/hook"
    assert message["title"].startswith(f"Conveyor: mnist {verdict}")
    assert "98.50 %, before 98.00 %" in message["message"]
    assert "drift: label: too far" in message["message"]


def test_only_what_is_wanted_is_told(webhook):
    url, received = webhook
    Notifier((url,), events=("failed",)).tell(OUTCOME)
    assert received == []


def test_what_went_wrong_is_said_without_the_secret(webhook, capfd):
    url, received = webhook
    (problem,) = Notifier((f"{url}/broken",)).tell(OUTCOME)
    assert received
    assert problem == "Notification address 1 (json://...) did not take the message."
    assert "s3cret" not in "".join(capfd.readouterr())


def test_unknown_addresses_are_refused_without_the_secret():
    with pytest.raises(
        ConfigError, match="address 2 of 2 is not one that apprise knows; its scheme is 'nope'"
    ) as raised:
        Notifier(("json://localhost", "nope://user:s3cret@host"))
    assert "s3cret" not in str(raised.value)


def test_the_hook_is_given_the_outcome(tmp_path):
    script = "import json, os, sys; open(sys.argv[1], 'w').write(os.environ['CONVEYOR_VERDICT'] + sys.stdin.read())"
    target = tmp_path / "told"
    assert Notifier(hook=f'{sys.executable} -c "{script}" {target}').tell(OUTCOME) == []
    assert target.read_text() == "pushed" + json.dumps(OUTCOME)


@pytest.mark.parametrize(
    ("hook", "problem"),
    [("false", "The hook ended with 1."), ("/no/such", "could not be run"), ("'", "could not be run")],
)
def test_a_hook_that_fails_is_told_of(hook, problem):
    (said,) = Notifier(hook=hook).tell(OUTCOME)
    assert problem in said
