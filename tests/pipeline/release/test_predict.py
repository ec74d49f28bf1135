import numpy as np
import pytest

from conveyor.errors import ConfigError
from pipeline.release import predict as predicting
from serving.client import Prediction, ServingError
from tests.pictures import encode, noise

PNG = b"\x89PNG\r\n\x1a\n"


class FakeClient:
    """Answers the length of each file modulo 3 as its label; refuses requests with a file that says `bad`."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict(self, files):
        self.sizes.append(len(files))
        if any(b"bad" in file for file in files):
            raise ServingError("INVALID_ARGUMENT", "not a picture")
        labels = np.array([len(file) % 3 for file in files])
        return Prediction(np.eye(3, dtype=np.float32)[labels], np.array([["a", "b", "c"]] * len(files)), labels, 7)


@pytest.fixture
def files(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes(PNG + b"x" * number)
    return tmp_path


def test_paths_and_patterns(files):
    assert predicting.files_of((str(files / "03.png"), str(files / "1*.png")))[:2] == [
        str(files / "03.png"),
        str(files / "10.png"),
    ]
    (files / "a[1].png").write_bytes(PNG)
    assert predicting.files_of((str(files / "a[1].png"),)) == [str(files / "a[1].png")]
    assert predicting.files_of(("-",)) == ["-"]
    with pytest.raises(ConfigError, match="no file of that pattern"):
        predicting.files_of((str(files / "*.jpg"),))


def test_answers_keep_the_order_and_requests_their_size(files):
    client, names = FakeClient(), predicting.files_of((str(files / "*.png"),))
    seen = []
    answers = list(predicting.predict(client, names, 2, seen.append))
    assert [answer.file for answer in answers] == names
    assert [answer.best[0] for answer in answers[:4]] == [("c", 1), ("a", 1), ("b", 1), ("c", 1)]
    assert all(len(answer.best) == 2 and answer.version == 7 for answer in answers)
    assert (client.sizes, sum(seen)) == ([32, 8], 40)


def test_files_that_fail_are_told_one_by_one(files):
    (files / "00.png").write_bytes(PNG + b"bad")
    (files / "01.png").write_bytes(b"text")
    (files / "02.png").write_bytes(encode(noise(2, 2, 1), "TIFF"))
    names = [str(files / f"0{number}.png") for number in range(4)]
    answers = list(predicting.predict(FakeClient(), names, 1))
    expected = "expected PNG, JPEG, GIF, BMP or WebP, found "
    tiff = "TIFF, which is not supported: convert it"
    errors = ["not a picture", f"{expected}something else", f"{expected}{tiff}", None]
    assert [answer.error for answer in answers] == errors
    assert answers[0].to_dict()["classes"] == []


def test_other_failures_end_it(files):
    class Down(FakeClient):
        def predict(self, files):
            raise ServingError("UNAVAILABLE", "nobody there")

    with pytest.raises(ServingError, match="nobody there"):
        list(predicting.predict(Down(), [str(files / "00.png")], 1))
