"""Records `conveyor run mnist` in a terminal of 80 columns as docs/terminal.svg.

    python docs/record_terminal.py [--home DIR]

The run is real, in an empty home folder unless `--home` names one; progress that is drawn over is left out.
"""

import argparse
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import rich.console
import rich.text

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 80
COMMAND = "conveyor run mnist"


def record(home: Path) -> str:
    """Runs the command in a pseudo-terminal, and returns all that it printed."""
    environment = os.environ | {"CONVEYOR_HOME": str(home), "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pipeline.cli", *COMMAND.split()[1:]]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        printed = b""
        while chunk := _read(ours):
            printed += chunk
    os.close(ours)
    if process.returncode:
        sys.exit(printed.decode(errors="replace")[-2000:])
    return printed.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # the other side has closed
        return b""


def lines(printed: str, home: Path) -> list[str]:
    """Returns what stays on the screen: of each line, what was drawn last; of the training, a few lines."""
    text = re.sub(r"\x1b\[[0-9;]*[A-JL-Za-ln-z]", "", printed)  # all but colours
    last = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    last = [line.replace(str(home), ".conveyor") for line in last if "steps/s" not in line and "running" not in line]
    steps = [number for number, line in enumerate(last) if line.startswith("step ")]
    kept = [line for number, line in enumerate(last) if number not in steps[2:-2]]
    first = next(number for number, line in enumerate(kept) if line.startswith("step "))
    return [*kept[: first + 2], f"... {len(steps) - 4} lines ...", *kept[first + 2 :]]


def main() -> None:
    """Records, and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    given = parser.parse_args()
    home = (given.home or Path(tempfile.mkdtemp())).resolve()
    screen = lines(record(home), home)
    console = rich.console.Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(f"[bold]$ {COMMAND}[/]")
    for line in screen:
        console.print(rich.text.Text.from_ansi(line), no_wrap=True, overflow="ellipsis", crop=True)
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="Conveyor"), flags=re.DOTALL)
    (ROOT / "docs" / "terminal.svg").write_text(picture)  # without fonts from elsewhere
    if given.home is None:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
