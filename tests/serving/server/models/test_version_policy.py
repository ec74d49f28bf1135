from pathlib import Path

import pytest
from tensorflow_serving.config import file_system_storage_path_source_pb2 as source

from serving.server.models import version_policy

Policy = source.FileSystemStoragePathSourceConfig.ServableVersionPolicy


@pytest.fixture
def found(tmp_path):
    for name in ("1", "2", "010", "x3", "-4", ".staging", "4.tmp", "99999999999999999999"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    return version_policy.available(tmp_path)


@pytest.mark.compatible("labels and policies")
def test_numbered_folders_are_versions(found):
    assert sorted(found) == [1, 2, 10]


@pytest.mark.compatible("labels and policies")
def test_policies(found):
    latest = Policy()
    assert set(version_policy.wanted(found, latest)) == {10}
    latest.latest.num_versions = 2
    assert set(version_policy.wanted(found, latest)) == {2, 10}
    everything = Policy()
    everything.all.SetInParent()
    assert set(version_policy.wanted(found, everything)) == {1, 2, 10}
    specific = Policy()
    specific.specific.versions.extend([1, 5])
    assert set(version_policy.wanted(found, specific)) == {1}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_goes_while_it_is_read_has_not_lost_its_versions(tmp_path, monkeypatch, replaced):
    base = tmp_path / "m"
    (base / "1").mkdir(parents=True)
    is_dir = Path.is_dir

    def gone(path):
        base.rename(tmp_path / "elsewhere")
        if replaced:
            base.mkdir()
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", gone)
    with pytest.raises(FileNotFoundError):
        version_policy.available(base)
