"""Every way to a network gives the same pixels: ingestion, the exported model, the client, the page."""

import base64
import dataclasses
import json
import urllib.request

import numpy as np
import pytest

from components.image_example_gen.dataset import Dataset, HashedSplits
from components.image_example_gen.readers import open_readers
from conveyor.pictures import as_png_or_jpeg
from pipeline.experiments import load
from serving.client import Client
from tests.pictures import of_all_kinds, of_converted_kinds
from tests.serving.server_process import Server
from trainer import export, networks
from trainer.settings import Pictures

pytestmark = pytest.mark.slow  # starts a server

FILES = of_all_kinds() | {name: file for name, (file, _) in of_converted_kinds().items()}
NETWORKS = {
    "squashed": Pictures((20, 20, 3), "squash"),
    "cropped": Pictures((20, 16, 3), "crop", "black"),
    "padded": Pictures((20, 20, 4), "pad"),
    "digits": Pictures((28, 28, 1), "squash", "black"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    entries = []
    for name, rules in NETWORKS.items():
        job = dataclasses.replace(load("mnist").training_job(), pictures=rules)
        (folder / name).mkdir()
        export.save(networks.build(job, "float32"), job, folder / name / "1", folder)
        entries.append(f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}')
    config = folder / "config"
    config.write_text(f"model_config_list {{ {''.join(entries)} }}")
    with Server(folder / "log", f"--model_config_file={config}") as running:
        yield running


def ingested(folder, rules):
    """Returns the pixels that a training gets, in the order of the files' names."""
    for name, content in FILES.items():
        (folder / "a").mkdir(exist_ok=True)
        (folder / "a" / name).write_bytes(content)
    dataset = Dataset("own", "folders", rules.shape, ("a", "b"), HashedSplits(), rules.resize, rules.background)
    (reader,) = open_readers(list(folder.glob("a/*")), dataset)
    return reader.read(0, len(FILES))[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_way_to_the_network_gives_the_same_pixels(server, tmp_path, name):
    trained_on = ingested(tmp_path, NETWORKS[name])
    assert len(np.unique(trained_on.reshape(len(FILES), -1), axis=0)) > 15  # they are not all one
    files = [FILES[key] for key in sorted(FILES)]
    inputs = {"image_bytes": np.array([*map(as_png_or_jpeg, files), None], dtype=object)[:-1]}
    for target in (server.target, server.rest):
        with Client(target, name) as client:
            for outputs in ((), ("images",)):
                assert np.array_equal(client.call("decode", inputs, outputs)["images"], trained_on)
            np.testing.assert_allclose(client.predict(files).scores, client.predict(trained_on).scores, atol=1e-6)
    for file, pixels in zip(files, trained_on, strict=True):
        request = urllib.request.Request(f"{server.rest}/page/models/{name}/picture", file)
        with urllib.request.urlopen(request) as response:
            reply = json.load(response)
        assert base64.b64decode(reply["seen"]) == pixels.tobytes()
