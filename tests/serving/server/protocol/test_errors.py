import pytest

from serving.server.protocol.errors import MAX_BYTES, StatusError


@pytest.mark.parametrize("letter", ["x", "é", "日", "😀", "\ud800"])
def test_a_long_message_is_cut(letter):
    message = StatusError("NOT_FOUND", f"no {20_000 * letter}").message
    assert len(message.encode()) <= MAX_BYTES + 3
    assert message.startswith("no ")
    assert message.endswith("...")


def test_a_short_message_is_whole():
    assert StatusError("NOT_FOUND", "no é").message == "no é"
