import dataclasses
import json
import os

import pytest
from click.testing import CliRunner

from components.image_example_gen.dataset import Dataset, HashedSplits, NamedSplits
from conveyor.errors import ExitCode
from pipeline.cli.main import main
from pipeline.data import check as checking
from pipeline.data.check import check
from pipeline.experiments import load
from tests.pictures import encode, noise


@pytest.fixture
def experiment():
    dataset = Dataset("own", "folders", (8, 6, 3), ("cat", "dog"), HashedSplits(eval_share=0.3, test_share=0.3))
    return dataclasses.replace(load("mnist"), dataset=dataset)


@pytest.fixture
def root(tmp_path):
    put(tmp_path, "cat", "dog", count=12)
    put(tmp_path / "span-1", "dog", first=1000)
    return tmp_path


def put(folder, *classes, first=0, count=3):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for picture in range(count):
            pixels = noise(8, 6, 3, seed=first + 100 * number + picture)
            (folder / name / f"{picture}.png").write_bytes(encode(pixels, "PNG"))


def problems(checks):
    return [problem for part in checks for problem in part.problems]


def test_an_image_with_two_labels_is_named(root, experiment):
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "2.png").read_bytes())
    (root / "cat" / "copy.png").write_bytes((root / "cat" / "3.png").read_bytes())  # twice with one label is no matter
    base, span = check(experiment, root)
    (sentence,) = base.warnings
    assert "the same image as" in sentence
    assert {"dog/copy.png", "cat/2.png"} <= set(sentence.replace(",", " ").split())
    assert not problems([base, span])
    assert not span.warnings


def test_an_image_with_another_label_in_another_part_is_named_there(root, experiment):
    (root / "span-1" / "dog" / "copy.png").write_bytes((root / "cat" / "2.png").read_bytes())
    base, span = check(dataclasses.replace(experiment, dataset=plain(experiment.dataset)), root)
    assert not base.warnings
    assert span.warnings == ("dog/copy.png is dog, and the same image as cat/2.png, which is cat.",)


def test_many_images_with_two_labels_are_counted(root, experiment, monkeypatch):
    monkeypatch.setattr(checking, "LISTED", 2)
    for number in range(5):
        (root / "dog" / f"copy{number}.png").write_bytes((root / "cat" / f"{number}.png").read_bytes())
    base, _ = check(experiment, root)
    assert (len(base.warnings), base.warnings[-1]) == (3, "3 more images with two labels.")


def plain(dataset):
    """Returns a dataset without a test split, whose images spans must not hold."""
    return dataclasses.replace(dataset, splits=HashedSplits(eval_share=0.3, test_share=0.001))


def test_links_to_nowhere_and_pipes_are_named(root, experiment):
    (root / "cat" / "lost.png").symlink_to("/nowhere/lost.png")
    os.mkfifo(root / "dog" / "pipe.png")
    assert problems(check(experiment, root)) == [
        f"{root}/cat/lost.png: expected a file, found a link to nowhere.",
        f"{root}/dog/pipe.png: expected a file, found neither file nor folder.",
    ]


def test_what_can_be_used_is_counted(root, experiment):
    base, span = check(experiment, root)
    assert (base.part, base.images, base.by_class) == ("base", 24, {"cat": 12, "dog": 12})
    assert (span.part, span.images, span.by_class) == ("span-1", 3, {"cat": 0, "dog": 3})
    assert problems([base, span]) == []


def test_every_file_that_cannot_be_used_is_listed_with_its_reason(root, experiment):
    (root / "cat" / "a.png").write_bytes(b"no picture")
    (root / "cat" / "b.tiff").write_bytes(encode(noise(3, 3, 1), "TIFF"))
    (root / "cat" / "Thumbs.db").touch()
    (root / "span-1" / "dog" / "cut.png").write_bytes(encode(noise(9, 9, 3), "PNG")[:60])
    found = problems(check(experiment, root))
    assert [sentence.partition(": expected")[0].removeprefix(f"{root}/") for sentence in found] == [
        "cat/a.png", "cat/b.tiff", "span-1/dog/cut.png"
    ]  # fmt: skip
    assert "TIFF, which is not supported: convert it" in found[1]


def test_a_class_without_images_is_named(root, experiment):
    for path in (root / "cat").iterdir():
        path.unlink()
    (base, _) = check(experiment, root)
    assert base.problems == tuple(
        f"{root}: expected images of the class cat in the split {split}, found none." for split in ("train", "test")
    )


def test_a_class_that_a_split_lacks_is_named(tmp_path, experiment):
    for split in ("train", "test", "val"):
        put(tmp_path / split, *(("cat", "dog") if split == "train" else ("dog",)), first=len(split))
    splits = NamedSplits("train/*/*", "test/*/*", eval="val/*/*")
    dataset = dataclasses.replace(experiment.dataset, splits=splits)
    (base,) = check(dataclasses.replace(experiment, dataset=dataset), tmp_path)
    assert base.problems == (f"{tmp_path}: expected images of the class cat in the split test, found none.",)


def test_a_split_without_an_image_lacks_every_class(root, experiment):
    splits = HashedSplits(eval_share=0.5, test_share=0.499999)  # nothing is left to train on
    dataset = dataclasses.replace(experiment.dataset, splits=splits)
    base, _ = check(dataclasses.replace(experiment, dataset=dataset), root)
    assert base.problems == tuple(
        f"{root}: expected images of the class {name} in the split train, found none." for name in ("cat", "dog")
    )


def test_an_image_that_is_held_out_is_named_by_its_file(root, experiment):
    for path in (root / "cat").iterdir():  # at least one of the three is held out
        (root / "span-1" / "dog" / f"again-{path.name}").write_bytes(path.read_bytes())
    (_, span) = check(experiment, root)
    assert span.problems
    for problem in span.problems:
        assert f"{root}/span-1/dog/again-" in problem
        assert "found one of those; take it out" in problem


def test_the_verb_says_it_and_ends_with_1(root, tmp_path):
    (tmp_path / "own.py").write_text(
        "import dataclasses\nfrom conveyor import Dataset, HashedSplits, load_experiment\n"
        "SPLITS = HashedSplits('*/*', eval_share=0.3, test_share=0.3)\n"
        "DATA = Dataset('own', 'folders', (8, 6, 3), ('cat', 'dog'), SPLITS)\n"
        "EXPERIMENT = dataclasses.replace(load_experiment('mnist'), dataset=DATA)\n"
    )
    arguments = ["check", str(tmp_path / "own.py"), "--data", str(root), "--home", str(tmp_path / "home"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == ExitCode.SUCCESS, result.output
    (root / "dog" / "a.png").write_bytes(b"")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == ExitCode.FAILED
    found = json.loads(result.output[result.output.index("{") :])["parts"]
    assert [len(part["problems"]) for part in found] == [1, 0]


def test_of_files_whose_structure_is_wrong_each_is_listed(tmp_path, experiment):
    dataset = dataclasses.replace(experiment.dataset, format="cifar_binary", splits=HashedSplits("*.bin"))
    for number in range(4):
        (tmp_path / f"{number}.bin").write_bytes(bytes(145 * 3 - (1 if number else 0)))
    (base,) = check(dataclasses.replace(experiment, dataset=dataset), tmp_path)
    assert [problem.partition(" at byte")[0] for problem in base.problems] == [
        str(tmp_path / f"{n}.bin") for n in (1, 2, 3)
    ]


def test_every_file_that_is_not_what_was_added_is_listed(root, experiment):
    (root / "span-1" / "span.json").write_text(json.dumps({"files": {"dog/0.png": "0" * 64, "dog/9.png": "0" * 64}}))
    (_, span) = check(experiment, root)
    assert [problem.rpartition("found ")[2] for problem in span.problems] == [
        "another.", "a file more.", "a file more.", "missing."
    ]  # fmt: skip
