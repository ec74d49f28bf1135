import numpy as np
import pytest

from pipeline.home.folders import Home
from pipeline.report import robustness
from pipeline.report.robustness import AVERAGED, CORRUPTIONS, MIRRORED, changed

BY_NAME = {corruption.name: corruption for corruption in CORRUPTIONS}
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 25, 50, 3), np.uint8)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_changed_images_are_the_same_each_time_and_leave_the_originals(corruption):
    before = IMAGES.copy()
    for level in corruption.levels:
        once = changed(IMAGES, corruption, level)
        assert (once.shape, once.dtype) == (IMAGES.shape, np.uint8)
        np.testing.assert_array_equal(once, changed(IMAGES, corruption, level))
        assert not np.array_equal(once, IMAGES)
    np.testing.assert_array_equal(IMAGES, before)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_a_higher_level_changes_more(corruption):
    slope = np.linspace(0, 127, 50)
    smooth = np.broadcast_to((slope[:, None] + slope)[None, :, :, None], (20, 50, 50, 1)).astype(np.uint8)
    distances = [
        np.abs(changed(smooth, corruption, level).astype(float) - smooth).mean() for level in corruption.levels
    ]
    if corruption.name != "blur":  # which leaves a smooth slope, but for its ends
        assert distances == sorted(distances)
        assert distances[0] < distances[-1]


def test_a_shift_is_a_share_of_the_shorter_side_in_one_of_four_ways():
    moved = changed(IMAGES, BY_NAME["shift"], 8)  # 8 % of 25 pixels are 2
    ways = {}
    for image, shifted in zip(IMAGES, moved, strict=True):
        candidates = {
            "down": np.array_equal(shifted[2:], image[:-2]),
            "up": np.array_equal(shifted[:-2], image[2:]),
            "right": np.array_equal(shifted[:, 2:], image[:, :-2]),
            "left": np.array_equal(shifted[:, :-2], image[:, 2:]),
        }
        (way,) = [name for name, holds in candidates.items() if holds]
        ways[way] = ways.get(way, 0) + 1
    assert set(ways) == {"down", "up", "right", "left"}


def test_a_rotation_turns_about_the_middle_both_ways():
    image = np.zeros((1, 41, 41, 1), np.uint8)
    image[:, 20, 36] = 255  # 16 pixels to the right of the middle
    images = np.repeat(image, 30, axis=0)
    places = {tuple(np.unravel_index(turned.argmax(), (41, 41))) for turned in changed(images, BY_NAME["rotation"], 30)}
    assert places == {(28, 34), (12, 34)}  # 16 sin 30 = 8 below and above; 16 cos 30 = 14 to the right


def test_noise_has_its_standard_deviation_and_contrast_its_share():
    grey = np.full((50, 20, 20, 1), 128, np.uint8)
    assert changed(grey, BY_NAME["noise"], 10).astype(float).std() == pytest.approx(25.5, rel=0.02)
    pale = changed(IMAGES, BY_NAME["contrast"], 25).astype(float)
    np.testing.assert_allclose(pale.std(axis=(1, 2, 3)), IMAGES.std(axis=(1, 2, 3)) / 4, rtol=0.02)
    np.testing.assert_allclose(pale.mean(axis=(1, 2, 3)), IMAGES.mean(axis=(1, 2, 3)), atol=0.2)


def test_a_blur_keeps_what_there_is():
    dot = np.zeros((1, 50, 50, 1), np.uint8)
    dot[:, 25, 25] = 255
    blurred = changed(dot, BY_NAME["blur"], 4).astype(float)  # 2 pixels
    assert blurred.sum() == pytest.approx(255, rel=0.1)
    assert blurred.max() == pytest.approx(255 / (2 * np.pi * 2**2), abs=1)


def left_or_right(images):
    """Probabilities that an image is brighter on its left, or on its right."""
    half = images.shape[2] // 2
    left, right = (side.astype(float).mean(axis=(1, 2, 3)) for side in (images[:, :, :half], images[:, :, half:]))
    return np.stack([left, right], axis=1) / (left + right)[:, None]


def test_accuracies_are_those_of_the_changed_images(tmp_path, monkeypatch):
    labels = left_or_right(IMAGES).argmax(axis=1)
    monkeypatch.setattr(robustness, "CHUNK_BYTES", 7 * 4 * IMAGES[0].size)  # in chunks of 7 images
    rows = {(row.change, row.level): row.accuracy for row in robustness.measure(left_or_right, IMAGES, labels)}
    assert rows["none", None] == 1.0
    assert rows[MIRRORED, None] == 0.0
    assert rows[AVERAGED, None] == np.mean(labels == 0)  # the sums are equal, and the first one is taken
    assert len(rows) == 3 + sum(len(corruption.levels) for corruption in CORRUPTIONS)
    assert rows["contrast", 50] == 1.0
    monkeypatch.setattr(robustness, "CHUNK_BYTES", 2**40)  # all at once
    whole = {(row.change, row.level): row.accuracy for row in robustness.measure(left_or_right, IMAGES, labels)}
    assert whole["noise", 20] == rows["noise", 20]  # the same noise, however it is cut


def test_a_page_has_every_row_and_a_picture_of_each_change(tmp_path):
    rows = robustness.measure(left_or_right, IMAGES, left_or_right(IMAGES).argmax(axis=1))
    path = robustness.write(Home(tmp_path), "flowers, <version 3>", "flowers-3", rows, IMAGES)
    assert path == tmp_path / "reports" / "flowers-3-robustness.html"
    text = path.read_text()
    assert "flowers, &lt;version 3&gt;" in text
    assert text.count("<tr>") == len(rows) + 1
    assert text.count("data:image/png;base64,") == 2 + sum(len(corruption.levels) for corruption in CORRUPTIONS)
