import subprocess
import sys

import pytest

from conveyor.errors import ConfigError
from pipeline.experiments import load, new_file
from pipeline.experiments.from_folder import experiment_of
from tests.pictures import draw_classes
from trainer import networks


@pytest.mark.parametrize("splits", [(), ("train", "test"), ("train", "test", "val")])
def test_the_file_is_what_the_folder_would_be_run_as(tmp_path, splits):
    folder = tmp_path / 'flowers "of" mine'
    for name in splits or [""]:
        draw_classes(folder / name, {"daisy": 9, "größte": 8, 'ro"se': 7}, (12, 10))
    file = tmp_path / "flowers.py"
    made = new_file.write("flowers", folder, file)
    loaded = load(str(file))
    assert loaded.name == loaded.dataset.name == loaded.serving.model_name == "flowers"
    assert (loaded.dataset, loaded.training, loaded.gate) == (made.dataset, made.training, made.gate)
    assert made.dataset.splits == experiment_of(folder).dataset.splits
    assert loaded.network.parameters == made.network.parameters
    assert networks.build(loaded.training_job(), "float32").output_shape == (None, 3)


def test_the_file_is_written_as_ours_are(tmp_path):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 9, "rose": 8})
    new_file.write("flowers", folder, tmp_path / "flowers.py")
    for command in (["check", "--select", "E,F,I,W,B"], ["format", "--check"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--line-length", "120", str(tmp_path / "flowers.py")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["conveyor", "json", "keras"])
def test_a_file_that_would_hide_a_package_is_refused(tmp_path, name):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 9, "rose": 8})
    with pytest.raises(ConfigError, match=f"{name} is a package's name, which a file of that name would hide"):
        new_file.write(name, folder, tmp_path / f"{name}.py")
    new_file.write(name, folder, tmp_path / "other.py")


def test_a_folder_of_pictures_hides_nothing(tmp_path, monkeypatch):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 9, "rose": 8})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    new_file.write("flowers", folder, tmp_path / "flowers.py")


def test_what_cannot_be_written_is_refused(tmp_path):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 9, "rose": 8})
    (tmp_path / "there.py").write_text("mine")
    with pytest.raises(ConfigError, match=r"there\.py is there already: choose another name, or --file"):
        new_file.write("flowers", folder, tmp_path / "there.py")
    assert (tmp_path / "there.py").read_text() == "mine"
    with pytest.raises(ConfigError, match="mnist is an experiment of Conveyor's own"):
        new_file.write("mnist", folder, tmp_path / "mnist.py")
    with pytest.raises(ConfigError, match=r"nowhere: there is no such folder"):
        new_file.write("flowers", tmp_path / "nowhere", tmp_path / "new.py")
    with pytest.raises(ConfigError, match="it should hold letters"):
        new_file.write("../x", folder, tmp_path / "new.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flowers", "there.py"]
