import numpy as np
import pytest

from serving.server.flags import parse
from serving.server.models.batching import BatchingParameters
from serving.server.models.bundle import SavedModelBundle
from serving.server.models.loader import Loader
from serving.server.protocol.errors import StatusError
from serving.server.protocol.requests import Limits
from tests.serving.models import half_plus_two as make_half_plus_two


def test_signatures_whose_tensors_all_have_rows_are_joined(shapes, half_plus_two):
    parameters = BatchingParameters()
    bundle = SavedModelBundle(shapes / "1", batching=parameters)
    assert bundle.batching_of("add") == parameters
    assert bundle.batching_of("scalar") is None
    assert bundle.batching_of("there is none") is None
    bundle.close()
    bundle = SavedModelBundle(half_plus_two / "1")
    assert bundle.batching_of("serving_default") is None, "not asked for"
    bundle.close()


@pytest.mark.parametrize(
    ("given", "rows", "padded"),
    [({}, 5, 5), ({"allowed_batch_sizes": (4, 8)}, 3, 4), ({"allowed_batch_sizes": (4, 8)}, 8, 8)],
)
@pytest.mark.compatible("batching")
def test_batches_are_padded_to_the_next_allowed_size(given, rows, padded):
    assert BatchingParameters(max_batch_size=8, **given).padded(rows) == padded


@pytest.mark.compatible("batching")
def test_what_is_run_at_once_may_be_less_than_what_may_be_asked_at_once(tmp_path):
    file = tmp_path / "batching"
    file.write_text(
        "max_batch_size { value: 16 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 4 }"
    )
    assert BatchingParameters.read(file).largest == 4
    file.write_text(file.read_text().replace("value: 4", "value: 17"))
    with pytest.raises(StatusError, match="max_execution_batch_size 17 is above max_batch_size"):
        BatchingParameters.read(file)
    file.write_text(
        "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 } allowed_batch_sizes: 8"
    )
    with pytest.raises(StatusError, match="end with max_execution_batch_size, 4"):
        BatchingParameters.read(file)
    for name in ("num_batch_threads", "max_batch_size", "max_execution_batch_size"):
        file.write_text(f"{name} {{ value: 0 }}")
        with pytest.raises(StatusError, match=f"{name} must be at least 1; it is 0"):
            BatchingParameters.read(file)


@pytest.mark.compatible("batching")
def test_parameters_are_read_from_the_real_servers_file(tmp_path):
    path = tmp_path / "batching.txt"
    path.write_text(
        "max_batch_size { value: 128 }\nbatch_timeout_micros { value: 500 }\nallowed_batch_sizes: 32\n"
        "allowed_batch_sizes: 128\npad_variable_length_inputs: true\nthread_pool_name { value: 'x' }\n"
    )
    parameters = BatchingParameters.read(path)
    assert parameters == BatchingParameters(128, 500, allowed_batch_sizes=(32, 128))
    path.write_text("max_batch_size { value: 100 } allowed_batch_sizes: 32")
    with pytest.raises(StatusError, match="must rise and end with max_batch_size, 100"):
        BatchingParameters.read(path)


@pytest.mark.compatible("batching")
def test_versions_may_have_parameters_of_their_own(tmp_path):
    """As with `--enable_per_model_batching_parameters`: those of the flags count for nothing but the threads."""
    own, none = make_half_plus_two(tmp_path / "own" / "1"), make_half_plus_two(tmp_path / "none" / "1")
    (own / "batching_params.pbtxt").write_text("max_batch_size { value: 7 } num_batch_threads { value: 99 }")
    for flags, sizes in (([], (4, 4)), (["--enable_per_model_batching_parameters"], (7, None))):
        (tmp_path / "batching").write_text("max_batch_size { value: 4 } num_batch_threads { value: 3 }")
        given = ["--model_base_path=/", "--enable_batching", f"--batching_parameters_file={tmp_path / 'batching'}"]
        load = Loader.of(parse([*given, *flags]), Limits())
        bundles = [load("m", path) for path in (own, none)]
        found = [bundle.batching_of("serving_default") for bundle in bundles]
        assert tuple(parameters and parameters.max_batch_size for parameters in found) == sizes
        assert found[0].num_batch_threads == 3
        assert bundles[0].run("serving_default", [np.array([4.0], np.float32)])[0].tolist() == [4.0]
        for bundle in bundles:
            bundle.close()
