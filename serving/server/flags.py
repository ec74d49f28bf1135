"""The flags of `tensorflow_model_server`, under its names and with its defaults, and a few of our own.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/model_servers/main.cc
"""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

# Flags that the real server has and this one takes without doing what they say: name -> what is not done.
NOT_DONE = {
    "enable_profiler": "there is no profiler service",
    "flush_filesystem_caches": "file system caches are left alone",
    "grpc_max_threads": "gRPC runs on one event loop",
    "mixed_precision": "models run in their own precision",
    "num_load_threads": "models load on a pool of threads",
    "num_tflite_interpreters_per_pool": "requests to TensorFlow Lite models are not batched",
    "num_unload_threads": "models unload on a pool of threads",
    "platform_config_file": "there is one platform, tensorflow",
    "remove_unused_fields_from_bundle_metagraph": "the MetaGraph is kept as it was loaded",
    "skip_initialize_tpu": "there is no TPU",
    "thread_pool_factory_config_file": "TensorFlow's own thread pools are used",
    "total_model_memory_limit_bytes": "memory is not limited",
    "use_alts_credentials": "ALTS is not spoken",
    "use_tflite_model": "its name is --prefer_tflite_model now",
    "xla_cpu_compilation_enabled": "nothing is compiled with XLA",
    "xla_gpu_compilation_enabled": "nothing is compiled with XLA",
}

CORES_A_PROCESS = 4  # what one keeps busy: its interpreter one of them, the model the others


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the flags; `ignored` lists those that are taken and not done.

    Unknown flags end the program with 2 and a message, as do values of the wrong type.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    flags.ignored = {name: why for name, why in NOT_DONE.items() if name in flags}
    if not flags.model_config_file and not flags.model_base_path:
        parser.error("name a model with --model_base_path, or several in a --model_config_file")
    for name in ("port", "rest_api_port"):
        if not 0 <= getattr(flags, name) <= 65535:  # gRPC would take another one in its place
            parser.error(f"--{name} must be from 0 to 65535; it is {getattr(flags, name)}.")
    for name in ("max_message_bytes", "max_concurrent_requests"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} must be at least 1; it is {getattr(flags, name)}.")
    if flags.rest_api_port and flags.rest_api_port == flags.port:
        parser.error("--rest_api_port cannot be same as --port.")
    if not flags.port and not flags.grpc_socket_path and not flags.rest_api_port:
        parser.error("nothing to listen on: --port, --grpc_socket_path and --rest_api_port are all off")
    if flags.num_processes < 0:
        parser.error("--num_processes must be at least 1, or 0 for as many as the processors ask for.")
    shares = flags.port or flags.rest_api_port
    if flags.num_processes > 1 and not shares:
        parser.error("--num_processes: several processes share TCP ports; a UNIX socket is of one alone.")
    flags.num_processes = flags.num_processes or (_processes() if shares else 1)
    return flags


def _processes() -> int:
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    return 1 if has_gpu else max(1, int(min(_cores(), _quota()) // CORES_A_PROCESS))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "conveyor_model_server",
        usage="%(prog)s (--model_base_path FOLDER | --model_config_file FILE) [FLAG]...",
        description="Serves SavedModels over gRPC and REST; compatible with TensorFlow Serving (tested subset).",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", default=argparse.SUPPRESS, help="print the versions and stop")
    for group in (_listening, _models, _running, _ours, _not_done):
        group(parser)
    return parser


def _listening(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where it listens").add_argument
    add("--port", type=int, default=8500, help="TCP port of gRPC; 0 for none")
    add("--grpc_socket_path", default="", help="UNIX socket of gRPC")
    add("--rest_api_port", type=int, default=0, help="port of REST and of the page; 0 for none")
    add("--rest_api_num_threads", type=int, default=4 * _cores(), help="requests in TensorFlow at once")
    add("--rest_api_timeout_in_ms", type=int, default=30000, help="time limit of a REST request")
    add("--grpc_channel_arguments", default="", help="comma-separated key=value pairs for gRPC")
    add("--ssl_config_file", default="", help="SSLConfig as text: TLS for gRPC")
    _flag(add, "--rest_api_enable_cors_support", False, "let pages of other sites ask the REST API")
    _flag(add, "--enable_grpc_healthcheck_service", False, "serve grpc.health.v1.Health")
    add("--monitoring_config_file", default="", help="MonitoringConfig as text: Prometheus metrics")


def _models(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what it serves").add_argument
    add("--model_name", default="default", help="name of the model in --model_base_path")
    add("--model_base_path", default="", help="folder of one model's numbered versions")
    add("--model_config_file", default="", help="ModelServerConfig as text: several models, policies, labels")
    add("--model_config_file_poll_wait_seconds", type=int, default=0, help="how often to read it again; 0 for never")
    add("--file_system_poll_wait_seconds", type=int, default=1, help="how often to look for versions; 0 for once")
    add("--max_num_load_retries", type=int, default=5, help="how often loading a version is tried again")
    add("--load_retry_interval_micros", type=int, default=60_000_000, help="how long between")
    add("--saved_model_tags", default="serve", help="comma-separated tags of the MetaGraph")
    _flag(add, "--prefer_tflite_model", False, "serve a version's model.tflite, where it has one")
    add("--num_tflite_pools", type=int, default=_cores(), help="requests at once to such a version")
    _flag(add, "--enable_model_warmup", True, "replay assets.extra/tf_serving_warmup_requests on loading")
    add("--num_request_iterations_for_warmup", type=int, default=0, help="how often each is replayed; 0 for once")
    _flag(add, "--allow_version_labels_for_unavailable_models", False, "new labels may name versions not loaded yet")
    _flag(add, "--force_allow_any_version_labels_for_unavailable_models", False, "any label may")


def _running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how it runs them").add_argument
    _flag(add, "--enable_batching", False, "batch across requests")
    add("--batching_parameters_file", default="", help="BatchingParameters as text")
    _flag(
        add,
        "--enable_per_model_batching_parameters",
        False,
        "batch each version by the batching_params.pbtxt in its folder, or not at all",
    )
    add("--tensorflow_session_config_file", default="", help="ConfigProto as text; other flags go before it")
    add("--tensorflow_session_parallelism", type=int, default=0, help="threads of both kinds; 0 for automatic")
    add("--tensorflow_intra_op_parallelism", type=int, default=0, help="threads within an operation")
    add("--tensorflow_inter_op_parallelism", type=int, default=0, help="operations at once")
    add("--per_process_gpu_memory_fraction", type=float, default=0.0, help="0 lets memory grow")
    _flag(add, "--enable_signature_method_name_check", False, "ask a signature only as it was exported to be")
    _flag(add, "--enable_serialization_as_tensor_content", False, "replies carry numbers as tensor_content")


def _ours(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what the real server does not have").add_argument
    add("--bind_address", default="127.0.0.1", help="address to listen on; 0.0.0.0 for every one")
    add("--max_message_bytes", type=int, default=2**27, help="longer requests are answered with RESOURCE_EXHAUSTED")
    add("--max_concurrent_requests", type=int, default=1024, help="as are more at once in a process, waiting too")
    add(
        "--num_processes",
        type=int,
        default=0,
        help=f"processes that share the ports and have loaded the same; 0: one for every {CORES_A_PROCESS} "
        "processors, or a single one where there is a GPU",
    )
    _flag(add, "--enable_page", True, "serve the page at / of the REST port")


def _not_done(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what the real server does, and this one only accepts").add_argument
    for name, why in NOT_DONE.items():
        add(f"--{name}", nargs="?", metavar="X", default=argparse.SUPPRESS, help=why)


def _flag(add: object, name: str, default: bool, text: str) -> None:
    add(name, type=_truth, nargs="?", const=True, default=default, help=text)  # type: ignore[operator]


def _truth(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _quota() -> float:
    """Returns how many processors' time a container may take."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(most) / int(period)
    except (OSError, ValueError):  # "max", or another kernel's
        return math.inf
