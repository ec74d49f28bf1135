import math

import pytest

from serving.server import flags

BASE = ["--model_base_path=/models/m"]


@pytest.mark.compatible("flags")
def test_names_and_defaults_are_the_real_servers():
    given = vars(flags.parse(BASE))
    expected = {
        "port": 8500,
        "rest_api_port": 0,
        "model_name": "default",
        "model_config_file": "",
        "model_config_file_poll_wait_seconds": 0,
        "file_system_poll_wait_seconds": 1,
        "enable_batching": False,
        "batching_parameters_file": "",
        "monitoring_config_file": "",
        "ssl_config_file": "",
        "grpc_socket_path": "",
        "grpc_channel_arguments": "",
        "max_num_load_retries": 5,
        "load_retry_interval_micros": 60_000_000,
        "num_request_iterations_for_warmup": 0,
        "enable_model_warmup": True,
        "allow_version_labels_for_unavailable_models": False,
        "tensorflow_intra_op_parallelism": 0,
        "tensorflow_inter_op_parallelism": 0,
        "tensorflow_session_parallelism": 0,
        "saved_model_tags": "serve",
        "rest_api_timeout_in_ms": 30000,
        "enable_serialization_as_tensor_content": False,
        "enable_grpc_healthcheck_service": False,
    }
    assert {name: given[name] for name in expected} == expected
    assert "rest_api_num_threads" in given
    assert given["bind_address"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "value"), [("--enable_batching", True), ("--enable_batching=true", True), ("--enable_batching=0", False)]
)
@pytest.mark.compatible("flags")
def test_truths_are_written_as_there(text, value):
    assert flags.parse([*BASE, text]).enable_batching is value


@pytest.mark.parametrize(
    ("cores", "quota", "gpu", "given", "processes"),
    [
        (2, math.inf, False, [], 1),
        (8, math.inf, False, [], 2),
        (64, 9.5, False, [], 2),
        (33, math.inf, False, [], 8),
        (32, math.inf, True, [], 1),
        (2, 1, False, ["--num_processes=3"], 3),
        (32, math.inf, False, ["--port=0", "--grpc_socket_path=/tmp/socket"], 1),
    ],
)
def test_processes_are_as_many_as_the_processors_ask_for(monkeypatch, cores, quota, gpu, given, processes):
    monkeypatch.setattr(flags, "_cores", lambda: cores)
    monkeypatch.setattr(flags, "_quota", lambda: quota)
    monkeypatch.setattr(flags.Path, "glob", lambda *_: [flags.Path("/dev/nvidia0")] if gpu else [])
    assert flags.parse([*BASE, *given]).num_processes == processes


def test_help_has_no_empty_defaults_and_repeats_no_name(capsys):
    with pytest.raises(SystemExit):
        flags.parse(["--help"])
    text = capsys.readouterr().out
    assert "(default: )" not in text
    assert "MODEL_CONFIG_FILE_POLL_WAIT_SECONDS" not in text


def test_known_flags_without_effect_are_told():
    assert flags.parse([*BASE, "--flush_filesystem_caches=true", "--enable_profiler"]).ignored == {
        "enable_profiler": "there is no profiler service",
        "flush_filesystem_caches": "file system caches are left alone",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BASE, "--no_such_flag=1"], "unrecognized arguments: --no_such_flag=1"),
        ([*BASE, "--enable_batch=true"], "unrecognized arguments"),
        ([*BASE, "--port=x"], "argument --port: 'x' is no whole number"),
        ([*BASE, "--enable_batching=perhaps"], "neither true nor false"),
        ([], "name a model with --model_base_path"),
        ([*BASE, "--rest_api_port=8500"], "--rest_api_port cannot be same as --port"),
        ([*BASE, "--port=0"], "nothing to listen on"),
    ],
)
@pytest.mark.compatible("flags")
def test_wrong_flags_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        flags.parse(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "rest_api_timeout_in_ms", "model_config_file_poll_wait_seconds", "file_system_poll_wait_seconds",
        "load_retry_interval_micros", "num_request_iterations_for_warmup", "tensorflow_inter_op_parallelism",
    ],
)  # fmt: skip
@pytest.mark.compatible("flags")
def test_less_than_nothing_has_a_meaning_where_the_real_server_gives_it_one(name):
    assert getattr(flags.parse([*BASE, f"--{name}=-2"]), name) == -2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BASE, "--port=99999"], "argument --port: it must be from 0 to 65535; it is 99999"),
        ([*BASE, "--rest_api_port=-1"], "argument --rest_api_port: it must be from 0 to 65535; it is -1"),
        ([*BASE, "--max_concurrent_requests=0"], "argument --max_concurrent_requests: it must be at least 1; it is 0"),
        ([*BASE, "--rest_api_num_threads=0"], "it must be at least 1"),
        ([*BASE, "--tensorflow_intra_op_parallelism=-1"], "it must be at least 0"),  # on which TensorFlow aborts
        ([*BASE, "--tensorflow_session_parallelism=-1"], "it must be at least 0"),
        ([*BASE, "--per_process_gpu_memory_fraction=1.5"], "it must be from 0 to 1; it is 1.5"),
        ([*BASE, "--num_processes=-1"], "argument --num_processes: it must be from 0 to 256; it is -1"),
        ([*BASE, "--port=0", "--grpc_socket_path=/s", "--num_processes=2"], "a UNIX socket is of one alone"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        flags.parse(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


REAL = [
    "port", "grpc_socket_path", "rest_api_port", "rest_api_num_threads", "rest_api_timeout_in_ms",
    "rest_api_enable_cors_support", "enable_batching", "allow_version_labels_for_unavailable_models",
    "force_allow_any_version_labels_for_unavailable_models", "batching_parameters_file",
    "enable_per_model_batching_parameters", "model_config_file", "model_config_file_poll_wait_seconds",
    "model_name", "model_base_path", "num_load_threads", "num_unload_threads", "max_num_load_retries",
    "load_retry_interval_micros", "file_system_poll_wait_seconds", "flush_filesystem_caches",
    "tensorflow_session_parallelism", "tensorflow_session_config_file", "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism", "use_alts_credentials", "ssl_config_file", "platform_config_file",
    "per_process_gpu_memory_fraction", "saved_model_tags", "grpc_channel_arguments", "grpc_max_threads",
    "enable_model_warmup", "num_request_iterations_for_warmup", "version", "monitoring_config_file",
    "remove_unused_fields_from_bundle_metagraph", "prefer_tflite_model", "num_tflite_pools",
    "num_tflite_interpreters_per_pool", "enable_signature_method_name_check", "xla_cpu_compilation_enabled",
    "enable_profiler", "thread_pool_factory_config_file", "mixed_precision", "skip_initialize_tpu",
    "enable_grpc_healthcheck_service", "enable_serialization_as_tensor_content", "total_model_memory_limit_bytes",
]  # fmt: skip


@pytest.mark.parametrize("name", REAL)
@pytest.mark.compatible("flags")
def test_every_flag_of_the_real_server_is_known(name):
    assert name in flags.parse([*BASE, "--version" if name == "version" else f"--{name}=1"])
