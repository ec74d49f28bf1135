"""Which of Beam's runners takes the examples through ingestion and evaluation, and with which of its options.

The examples are the same bytes on all of them, and the metrics the same, so that nothing here is part of a cache's key.
"""

import dataclasses
import os
import shlex
from pathlib import Path

from conveyor.errors import ConfigError

VARIABLE = "CONVEYOR_BEAM"
FILE = "beam.txt"  # in the home folder
# Beam's own DirectRunner would first look for a runner to download; this one needs nothing but this process.
_IN_PROCESS = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
NAMES = ("direct", "multiprocess", "flink", "spark", "dataflow")
_BEAMS_NAMES = {
    "direct": "DirectRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
    "dataflow": "DataflowRunner",
}
WORKERS = "localhost:50000"  # beside each TaskManager or executor, as `conveyor worker` listens
# A job that lost a machine begins its lost part again, where Flink by itself would give up.
_FLINK_OPTIONS = ("--number_of_execution_retries=5", "--execution_retry_delay=2000")


@dataclasses.dataclass(frozen=True)
class BeamRunner:
    """A runner and its options.

    Attributes:
      name: one of `NAMES`, or the class that Beam's own option `--runner` names.
      options: Beam's own, such as `--flink_master=host:8081`.
      source: where it was chosen, in words.
    """

    name: str = "direct"
    options: tuple[str, ...] = ()
    source: str = "by default"

    @classmethod
    def chosen(cls, home: Path, given: str | None = None) -> "BeamRunner":
        """Returns the runner of `--beam`, of $CONVEYOR_BEAM, of the home's `beam.txt`, or the direct one.

        Args:
          home: the home folder.
          given: what `--beam` says; see `of`.

        Raises:
          ConfigError: it is no runner.
        """
        if given is not None:
            return cls.of(given, "--beam")
        if text := os.environ.get(VARIABLE, ""):
            return cls.of(text, f"${VARIABLE}")
        path = home / FILE
        return cls._of_words(_words_of_file(path, str(path)), str(path)) if os.path.lexists(path) else DIRECT

    @classmethod
    def of(cls, text: str, source: str) -> "BeamRunner":
        """Returns the runner of a text: its name and options, as in a shell; or a file's that holds such a text.

        Lines of a file that begin with `#` are comments.

        Args:
          text: such as `flink --flink_master=host:8081`, or a path.
          source: where it was found, in words.

        Raises:
          ConfigError: it is no runner, or the file cannot be read.
        """
        words = _words(text, source)
        is_named = bool(words) and (words[0] in NAMES or words[0].startswith("-"))
        if not is_named and os.path.exists(text):  # noqa: PTH110  # a Path refuses a text that is too long for one
            words = _words_of_file(Path(text), source)
        return cls._of_words(words, source)

    @classmethod
    def _of_words(cls, words: list[str], source: str) -> "BeamRunner":
        name = words[0] if words and not words[0].startswith("-") else ""
        options = tuple(words[1:] if name else words)
        wrong = [option for option in options if not option.startswith("--")]
        if wrong:
            raise ConfigError(
                f"{source}: {wrong[0]!r} is no option of Beam's; they look like --flink_master=host:8081."
            )
        runners = [option.partition("=")[2] for option in options if option.partition("=")[0] == "--runner"]
        if name and runners:
            raise ConfigError(f"{source}: it names two runners, {name} and {runners[-1]}.")
        if name and name not in NAMES:
            raise ConfigError(
                f"{source}: there is no runner {name!r}, and no file of that name. There are {', '.join(NAMES)}; "
                "Beam's own options, in a file, may name any with --runner."
            )
        name = name or (runners[-1] if runners else "")
        if not name:
            raise ConfigError(f"{source}: it names no runner. There are {', '.join(NAMES)}, and Beam's own --runner.")
        ours = next((our for our, beams in _BEAMS_NAMES.items() if name.lower() in (our, beams.lower())), name)
        if ours in NAMES:
            options = tuple(option for option in options if option.partition("=")[0] != "--runner")
        runner = cls(ours, options, source)
        if not (runner.option("parallelism") or "1").lstrip("-").isdecimal():
            raise ConfigError(f"{source}: --parallelism={runner.option('parallelism')} is no number.")
        return runner

    @property
    def is_here(self) -> bool:
        """Whether all of its work is done on this machine, by this process and its children."""
        return self.name in ("direct", "multiprocess")

    def option(self, name: str) -> str | None:
        """Returns the value of one of its options; None where it is not given. The last one counts."""
        return next((o.partition("=")[2] for o in reversed(self.options) if o.partition("=")[0] == f"--{name}"), None)

    def arguments(self, divides: bool) -> list[str]:
        """Returns the arguments of a Beam pipeline.

        Args:
          divides: whether most of the work is done without Python's lock, so that threads gain from it.
        """
        cores = len(os.sched_getaffinity(0))
        if self.name == "direct":
            # In one thread, in memory, was faster than several threads or processes at every size tried; but not where
            # shards of pictures are decoded side by side.
            mode, workers = ("multi_threading", cores) if divides else ("in_memory", 1)
        elif self.name == "multiprocess":
            mode, workers = "multi_processing", cores
        else:
            return [*self._defaults(), *self.options]
        return [_IN_PROCESS, f"--direct_running_mode={mode}", f"--direct_num_workers={workers}", *self.options]

    def _defaults(self) -> list[str]:
        """Returns what a cluster's runner is told unless its options say otherwise, which come after it."""
        named = [f"--runner={_BEAMS_NAMES[self.name]}"] if self.name in _BEAMS_NAMES else []
        if self.name == "dataflow":  # it starts workers of its own, from an image
            return named
        workers = ["--environment_type=EXTERNAL", f"--environment_config={WORKERS}"]
        return [*named, *workers, *(_FLINK_OPTIONS if self.name == "flink" else ())]


DIRECT = BeamRunner()


def _words(text: str, source: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}.") from error


def _words_of_file(path: Path, source: str) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: {path} cannot be read: {error}.") from error
    return _words(text, source)
