"""The flags of `tensorflow_model_server`, under its names and with its defaults, and a few of our own.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/model_servers/main.cc
"""

import argparse
import math
import os
from collections.abc import Callable, Sequence
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
    if flags.rest_api_port and flags.rest_api_port == flags.port:
        parser.error("--rest_api_port cannot be same as --port.")
    if not flags.port and not flags.grpc_socket_path and not flags.rest_api_port:
        parser.error("nothing to listen on: --port, --grpc_socket_path and --rest_api_port are all off")
    shares = flags.port or flags.rest_api_port
    if flags.num_processes > 1 and not shares:
        parser.error("--num_processes: several processes share TCP ports; a UNIX socket is of one alone.")
    flags.num_processes = flags.num_processes or (_processes() if shares else 1)
    return flags


def _processes() -> int:
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    return 1 if has_gpu else max(1, int(min(_cores(), _quota()) // CORES_A_PROCESS))


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, but for those that are nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default == "" else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "conveyor_model_server",
        usage="%(prog)s (--model_base_path FOLDER | --model_config_file FILE) [FLAG]...",
        description="Serves SavedModels over gRPC and REST; compatible with TensorFlow Serving (tested subset).",
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="store_true", default=argparse.SUPPRESS, help="print the versions and stop")
    for group in (_listening, _models, _running, _ours, _not_done):
        group(parser)
    return parser


def _listening(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where it listens").add_argument
    add("--port", type=_port, metavar="PORT", default=8500, help="TCP port of gRPC; 0 for none")
    add("--grpc_socket_path", metavar="PATH", default="", help="UNIX socket of gRPC")
    add("--rest_api_port", type=_port, metavar="PORT", default=0, help="TCP port of REST and of the page; 0 for none")
    add(
        "--rest_api_num_threads",
        type=_number(1),
        metavar="N",
        default=4 * _cores(),
        help="threads that run models, for gRPC too: batches and single requests at once",
    )
    add(
        "--rest_api_timeout_in_ms",
        type=int,
        metavar="MS",
        default=30000,
        help="time limit of a REST request, in milliseconds; 0 or less for none",
    )
    add("--grpc_channel_arguments", metavar="KEY=VALUE,...", default="", help="channel arguments of gRPC's library")
    add("--ssl_config_file", metavar="FILE", default="", help="SSLConfig as text: TLS for gRPC; REST stays unencrypted")
    _flag(add, "--rest_api_enable_cors_support", False, "let pages of other sites ask the REST API")
    _flag(add, "--enable_grpc_healthcheck_service", False, "serve grpc.health.v1.Health")
    add("--monitoring_config_file", metavar="FILE", default="", help="MonitoringConfig as text: Prometheus metrics")


def _models(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what it serves").add_argument
    add("--model_name", metavar="NAME", default="default", help="name of the model in --model_base_path")
    add("--model_base_path", metavar="FOLDER", default="", help="folder of one model's numbered versions")
    add(
        "--model_config_file",
        metavar="FILE",
        default="",
        help="ModelServerConfig as text: several models, version policies, labels",
    )
    add(
        "--model_config_file_poll_wait_seconds",
        type=int,
        metavar="S",
        default=0,
        help="how often that file is read again, in seconds; 0 or less for never",
    )
    add(
        "--file_system_poll_wait_seconds",
        type=int,
        metavar="S",
        default=1,
        help="how often new versions are looked for, in seconds; 0 for once, at the start, and less for never",
    )
    add(
        "--max_num_load_retries",
        type=_number(0),
        metavar="N",
        default=5,
        help="how often a version that fails to load is tried again",
    )
    add(
        "--load_retry_interval_micros",
        type=int,
        metavar="US",
        default=60_000_000,
        help="microseconds from one such try to the next; less than 0 for no wait",
    )
    add("--saved_model_tags", metavar="TAG,...", default="serve", help="tags of the MetaGraph to load")
    _flag(add, "--prefer_tflite_model", False, "serve a version's model.tflite, where it has one")
    add(
        "--num_tflite_pools",
        type=_number(1),
        metavar="N",
        default=_cores(),
        help="interpreters of such a version: how many requests run at once",
    )
    _flag(add, "--enable_model_warmup", True, "replay assets.extra/tf_serving_warmup_requests on loading")
    add(
        "--num_request_iterations_for_warmup",
        type=int,
        metavar="N",
        default=0,
        help="how often each of these requests is replayed; 0 or less for once",
    )
    _flag(
        add,
        "--allow_version_labels_for_unavailable_models",
        False,
        "a label that is new may name a version that is not loaded yet",
    )
    _flag(
        add,
        "--force_allow_any_version_labels_for_unavailable_models",
        False,
        "any label may, also one that moves away from a version that serves",
    )


def _running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how it runs them").add_argument
    _flag(add, "--enable_batching", False, "put waiting requests together in batches")
    add("--batching_parameters_file", metavar="FILE", default="", help="BatchingParameters as text")
    _flag(
        add,
        "--enable_per_model_batching_parameters",
        False,
        "batch each version by the batching_params.pbtxt in its folder, or not at all",
    )
    add(
        "--tensorflow_session_config_file",
        metavar="FILE",
        default="",
        help="ConfigProto as text; the four flags below, where given, have precedence",
    )
    add(
        "--tensorflow_session_parallelism",
        type=_number(0),
        metavar="N",
        default=0,
        help="sets the next two at once; 0 for as TensorFlow decides",
    )
    add(
        "--tensorflow_intra_op_parallelism",
        type=_number(0),
        metavar="N",
        default=0,
        help="threads within an operation; 0 for as TensorFlow decides",
    )
    add(
        "--tensorflow_inter_op_parallelism",
        type=int,
        metavar="N",
        default=0,
        help="operations at once; 0 for as TensorFlow decides, less for one after the other in the calling thread",
    )
    add(
        "--per_process_gpu_memory_fraction",
        type=_share,
        metavar="SHARE",
        default=0.0,
        help="share of a GPU's memory that is taken at the start; 0 takes more as it is needed",
    )
    _flag(
        add,
        "--enable_signature_method_name_check",
        False,
        "refuse Classify of a signature that was not exported for Classify, and so on; TensorFlow 2 exports all for "
        "Predict",
    )
    _flag(add, "--enable_serialization_as_tensor_content", False, "replies carry numbers as tensor_content")


def _ours(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what the real server does not have").add_argument
    add(
        "--bind_address",
        type=lambda text: text.removeprefix("[").removesuffix("]"),
        metavar="HOST",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for every IPv4 address, :: for every one",
    )
    add(
        "--max_message_bytes",
        type=_number(1),
        metavar="N",
        default=2**27,
        help="a longer request is answered with RESOURCE_EXHAUSTED",
    )
    add(
        "--max_concurrent_requests",
        type=_number(1),
        metavar="N",
        default=1024,
        help="requests that a process may hold, running and waiting; the next is answered with RESOURCE_EXHAUSTED",
    )
    add(
        "--num_processes",
        type=_number(0, 256),
        metavar="N",
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
    add(name, type=_truth, nargs="?", metavar="true|false", const=True, default=default, help=text)  # type: ignore[operator]


def _number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Returns a flag's type: whole numbers within bounds."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not least <= number <= most:
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"it must be {bounds}; it is {number}")
        return number

    return read


_port = _number(0, 65535)  # gRPC would take another one in place of a larger


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"it must be from 0 to 1; it is {text}")
    return share


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
