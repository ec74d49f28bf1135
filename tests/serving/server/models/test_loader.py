import numpy as np
import pytest

from serving.server import flags
from serving.server.models.bundle import SavedModelBundle
from serving.server.models.lite_bundle import LiteBundle
from serving.server.models.loader import Loader
from serving.server.protocol.errors import StatusError
from serving.server.protocol.requests import Limits
from tests.serving import models


def loader(*arguments):
    return Loader.of(flags.parse(["--model_base_path=/models/m", *map(str, arguments)]), Limits())


@pytest.mark.compatible("configuration files")
def test_a_session_is_configured_by_its_file_and_flags_go_before_it(tmp_path):
    file = tmp_path / "session"
    file.write_text("intra_op_parallelism_threads: 3 inter_op_parallelism_threads: 5 allow_soft_placement: true")
    config = loader(f"--tensorflow_session_config_file={file}", "--tensorflow_inter_op_parallelism=1").session_config
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (3, 1)
    assert config.allow_soft_placement
    file.write_text("threads: 3")
    with pytest.raises(StatusError, match="Invalid protobuf file"):
        loader(f"--tensorflow_session_config_file={file}")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--batching_parameters_file=/nowhere"],
        [f"--tensorflow_{kind}_parallelism=1" for kind in ("session", "intra_op", "inter_op")],
    ],
)
@pytest.mark.compatible("flags")
def test_flags_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(StatusError) as error:
        loader(*wrong)
    assert error.value.code == "INVALID_ARGUMENT"


@pytest.mark.compatible("TensorFlow Lite")
def test_a_tflite_file_is_preferred_where_the_flag_says_so_and_there_is_one(tmp_path):
    both = models.lite(models.network(tmp_path / "both"), "predict_pixels")
    saved = models.half_plus_two(tmp_path / "saved")
    prefers = loader("--prefer_tflite_model", "--num_tflite_pools=1", "--enable_model_warmup=false")
    bundles = [prefers("m", both), prefers("m", saved), loader()("m", both)]
    assert [type(bundle) for bundle in bundles] == [LiteBundle, SavedModelBundle, SavedModelBundle]
    assert bundles[0].run("serving_default", [np.zeros((1, 28, 28, 1), np.uint8)])[0].shape == (1, 10)
    for bundle in bundles:
        bundle.close()
