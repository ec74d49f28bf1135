import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.server.flags import parse
from serving.server.models.batching import BatchingParameters
from serving.server.models.bundle import SavedModelBundle
from serving.server.models.loader import Loader
from serving.server.protocol.errors import StatusError
from serving.server.protocol.requests import Limits
from tests.serving.models import half_plus_two as make_half_plus_two

SLOW = BatchingParameters(max_batch_size=8, batch_timeout_micros=200_000, num_batch_threads=1)


@pytest.fixture(scope="module")
def half(half_plus_two):
    bundle = SavedModelBundle(half_plus_two / "1", batching=SLOW)
    yield bundle
    bundle.close()


def test_calls_of_threads_are_answered_each_with_its_own_rows(half):
    with ThreadPoolExecutor(16) as pool:
        rows = [np.array([float(i)], np.float32) for i in range(64)]
        answers = list(pool.map(lambda row: half.run("serving_default", [row]), rows))
    assert [float(answer[0][0]) for answer in answers] == [i / 2 + 2 for i in range(64)]


def test_a_full_batch_runs_at_once_and_a_part_waits_for_the_timeout(half):
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: half.run("serving_default", [np.ones(1, np.float32)]), range(8)))
    full = time.monotonic() - started
    started = time.monotonic()
    half.run("serving_default", [np.ones(1, np.float32)])
    assert full < 0.2 <= time.monotonic() - started


def test_variables_of_tensorflow_1_are_captured(half_plus_two):
    """A reference variable cannot be captured by a function; its value can."""
    bundle = SavedModelBundle(half_plus_two / "1", batching=BatchingParameters())
    assert set(bundle.signatures) >= {"serving_default", "classify", "regress"}
    assert bundle.max_batch_size("serving_default") == 1000
    assert bundle.run("serving_default", [np.array([4.0], np.float32)])[0].tolist() == [4.0]
    bundle.close()


def test_more_rows_than_a_batch_may_have_run_by_themselves(half_plus_two):
    small = BatchingParameters(max_batch_size=4, num_batch_threads=1)
    bundle = SavedModelBundle(half_plus_two / "1", batching=small)
    # The batch scheduler refuses them.
    assert bundle.run("serving_default", [np.zeros(9, np.float32)])[0].tolist() == [2.0] * 9
    bundle.close()


def test_signature_without_a_batch_dimension_runs_unbatched(shapes, caplog):
    bundle = SavedModelBundle(shapes / "1", batching=BatchingParameters())
    assert bundle.max_batch_size("add") == 1000
    assert bundle.max_batch_size("scalar") == 0
    assert "signature scalar is served without batching" in caplog.text
    assert bundle.run("scalar", [np.float32(3)])[1] == 6
    bundle.close()


def test_inputs_of_different_lengths_are_refused(shapes):
    bundle = SavedModelBundle(shapes / "1", batching=BatchingParameters())
    with pytest.raises(StatusError, match="equal 0th-dimension size"):
        bundle.run("add", [np.zeros(2, np.int64), np.zeros(3, np.int64)])
    with pytest.raises(StatusError, match=r"must have the shape \[-1\]; \[\] is given"):
        bundle.run("add", [np.int64(1), np.int64(1)])
    bundle.close()


def test_a_bad_row_does_not_spoil_its_neighbours(shapes):
    bundle = SavedModelBundle(shapes / "1", batching=SLOW)
    barrier = threading.Barrier(4)

    def ask(value):
        barrier.wait()
        try:
            return bundle.run("checked", [np.array([value], np.float32)])[0].tolist()
        except StatusError as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [4.0, -1.0, 9.0, 16.0]))
    assert answers == [[2.0], "INVALID_ARGUMENT", [3.0], [4.0]]
    bundle.close()


def test_allowed_sizes_pad_and_the_padding_is_cut(half_plus_two):
    bundle = SavedModelBundle(
        half_plus_two / "1", batching=BatchingParameters(max_batch_size=8, allowed_batch_sizes=(4, 8))
    )
    assert bundle.run("serving_default", [np.array([2.0, 4.0, 6.0], np.float32)])[0].tolist() == [3.0, 4.0, 5.0]
    bundle.close()


def test_a_large_call_is_run_in_parts_of_at_most_the_execution_size(half_plus_two, tmp_path):
    file = tmp_path / "batching"
    file.write_text(
        "max_batch_size { value: 16 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 4 }"
    )
    parameters = BatchingParameters.read(file)
    assert (parameters.largest, parameters.sizes) == (4, (1, 2, 3, 4))
    bundle = SavedModelBundle(half_plus_two / "1", batching=parameters)
    values = np.arange(11, dtype=np.float32)
    assert bundle.run("serving_default", [values])[0].tolist() == (values / 2 + 2).tolist()
    bundle.close()
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


def test_versions_may_have_parameters_of_their_own(tmp_path):
    """As with `--enable_per_model_batching_parameters`: those of the flags count for nothing but the threads."""
    own, none = make_half_plus_two(tmp_path / "own" / "1"), make_half_plus_two(tmp_path / "none" / "1")
    (own / "batching_params.pbtxt").write_text("max_batch_size { value: 7 } num_batch_threads { value: 99 }")
    for flags, sizes in (([], (4, 4)), (["--enable_per_model_batching_parameters"], (7, 0))):
        (tmp_path / "batching").write_text("max_batch_size { value: 4 } num_batch_threads { value: 3 }")
        given = ["--model_base_path=/", "--enable_batching", f"--batching_parameters_file={tmp_path / 'batching'}"]
        load = Loader.of(parse([*given, *flags]), Limits())
        bundles = [load("m", path) for path in (own, none)]
        assert tuple(bundle.max_batch_size("serving_default") for bundle in bundles) == sizes
        assert bundles[0].batch_threads == 3
        for bundle in bundles:
            bundle.close()
