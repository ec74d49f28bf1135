"""Writes docs/measurements.md from benchmarks/results/: no figure on that page is typed by hand.

python docs/make_measurements.py            writes the page
python docs/make_measurements.py --check    ends with 1 if the page is not what the results say
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "measurements.md"
Spread = dict[str, float]  # median, min, max
PEERS = ("litserve", "BentoML")
SERVERS = ("bare Session", "embedded server", "a process a core", "embedded server, REST", *PEERS)


def result(name: str) -> Any:
    """Returns what a benchmark stored."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def spread(value: Spread, digits: int = 1, unit: str = "") -> str:
    """Returns a median with its range."""
    low, high = (f"{value[end]:,.{digits}f}" for end in ("min", "max"))
    return f"{value['median']:,.{digits}f}{unit} ({low} to {high})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def machine(stored: Any) -> str:
    """Returns when and on what a benchmark was run."""
    about, versions = stored["machine"], stored["machine"]["versions"]
    arithmetic = f" with {', '.join(about['bfloat16'])}" if about["bfloat16"] else " without bfloat16"
    return (
        f"Measured {stored['measured'][:10]} on {about['cores']} cores of an {about['processor']}{arithmetic}, "
        f"{about['memory_gib']} GiB, Python {versions['python']}, TFX {versions['tfx']}, TensorFlow "
        f"{versions['tensorflow']}, Beam {versions['apache-beam']}.\n"
    )


def overhead() -> str:
    """Returns the section on what a run costs beyond its steps."""
    stored = result("pipeline_overhead")
    ours, plain = stored["figures"]["conveyor"], stored["figures"]["plain TFX"]
    names = (
        "ExampleGen",
        "StatisticsGen",
        "Trainer",
        "Evaluator",
        "ServabilityCheck",
        "outside the components",
        "whole",
    )
    rows = [
        [name, spread(ours[name], 1, " s"), spread(plain[name], 1, " s") if name in plain else "does not exist"]
        for name in names
    ]
    both = stored["all_but_the_trainer"]
    rows.append(["**all but the Trainer**", *(spread(both[name], 1, " s") for name in ("conveyor", "plain TFX"))])
    rows.append(["**all but the steps**", spread(stored["all_but_the_steps"], 1, " s"), "not measured"])
    memory = "memory at its peak"
    rows.append([memory, spread(ours[memory], 0, " MB"), spread(plain[memory], 0, " MB")])
    looks = ("up to date", "conveyor --help", "conveyor models", "conveyor runs")
    rows += [[name, spread(ours[name], 2, " s"), "does not exist"] for name in looks]
    ratio = stored["ratio"]
    return f"""## A run beyond its training

`python -m benchmarks.pipeline_overhead`: MNIST, {stored["steps"]} steps, n = {stored["n"]}. Each run is a process of its own in an empty
home folder; the two are run in turn. Plain TFX has the stock components, its own runner, `model.fit`, no cache, and the same
data, network, precision and gate.

{table(["", "Conveyor", "plain TFX"], rows)}
Conveyor takes {spread(ratio["whole"], 2)} times as long as plain TFX, without the Trainer {spread(ratio["without the Trainer"], 2)}
times, and {spread(ratio["memory"], 2)} times its memory. That includes the servability check, the anomaly gate and the report, which
plain TFX does not have. Conveyor's Trainer is a process of its own, measures the held-out and the test split, and writes
checkpoints and warm-up requests. It is forked from a process that has imported TensorFlow meanwhile, and the
servability check runs beside the Evaluator. "Outside the components" is start-up, imports and the report. Memory is
that of all processes together; what they share counts once. The steps are from the first to the last, with the
accuracies and checkpoints between them.

{machine(stored)}"""


def retraining() -> str:
    """Returns the section on retraining."""
    stored = result("retraining")
    ways = stored["figures"]
    parts = ("ingestion", "statistics and drift", "training", "evaluation and servability", "whole")
    rows = [[part, *(spread(ways[way][part], 1, " s") for way in ways)] for part in parts]
    rows.append(["ratio to the run beside it", "1", *(spread(ratio, 2) for ratio in stored["ratio"].values())])
    rows.append(["test accuracy", *(f"{100 * ways[way]['test accuracy']['median']:.2f} %" for way in ways)])
    return f"""## Retraining on a new span

`python -m benchmarks.retraining`: MNIST, {stored["steps"]:,} steps, whose last {stored["images"]:,} training images arrive as a span; a warm start
takes {stored["warm_steps"]} steps; n = {stored["n"]}, each run a process of its own, the three in turn.

{table(["", *ways], rows)}
Only the new span is ingested and measured. Training costs what its steps cost, so only a warm start makes a retraining cheap.
The stable version, which the model has to beat, was measured by the run that pushed it: TFMA measures the new one alone.

{many_spans(stored)}{machine(stored)}"""


def many_spans(stored: dict[str, Any]) -> str:
    """Returns what one span more costs beside many; nothing where that was not measured."""
    if len(stored.get("spans", ())) < 2:
        return ""
    spans = [[count, spread(seconds, 1, " s")] for count, seconds in stored["spans"].items()]
    (few, first), *_, (many, last) = ((int(n), seconds["median"]) for n, seconds in stored["spans"].items())
    return f"""With many spans, of 20 images each, {stored["n"]} retrainings of 30 steps on one more:

{table(["spans that the home knows", "one more"], spans)}
That is {(last - first) / (many - few):.3f} s for each.

"""


def serving() -> str:
    """Returns the section on serving."""
    stored = result("serving")
    rates, costs = [], []
    for network, measured in stored["networks"].items():
        for clients, seen in measured["clients"].items():
            server, one = seen["embedded server"], f"`{network}`, {clients}"
            rates.append([one] + [spread(seen[who]["images"], 0) if who in seen else "" for who in SERVERS])
            ratios = [spread(seen[who]["gRPC of it"], 2) if who in seen else "" for who in PEERS]
            p50, p99 = (server[key]["median"] for key in ("p50", "p99"))
            costs.append(
                [
                    one,
                    spread(server["of the Session"], 2),
                    spread(seen["a process a core"]["of the Session"], 2),
                    *ratios,
                ]
                + [f"{p50:.1f} / {p99:.1f} ms", f"{p50 / seen['bare Session']['p50']['median']:.1f}"]
                + [spread(server["cpu beyond"], 2, " ms")]
            )
    starts = ", ".join(f"{network} {measured['start']:.1f} s" for network, measured in stored["networks"].items())
    head = ["network, clients", "server / Session", "a process a core / Session"]
    head += [*(f"server / {peer}" for peer in PEERS), "p50 / p99"]
    return f"""## Serving

`python -m benchmarks.serving`: one image a request, n = {stored["n"]} runs of {stored["seconds"]:.0f} s, interleaved; images a second. The bare Session
runs batches of as many images as there are clients, in one process and without requests: it is the limit. The embedded
server is one process, as by default on few processors, and once a process a core, over gRPC. litserve and BentoML serve
the same SavedModel through a Session over HTTP, in batches of up to 32. All share the cores with the load's own process.

{table(["network, clients", *SERVERS], rates)}
Over gRPC:

{table([*head, "p50 / the Session's", "processor beyond the model's, an image"], costs)}
From the command to the first answer, the files in the system's cache: {starts}.

The aims were 0.40 of the Session at 32 clients of MNIST and 0.60 of CIFAR-10, one client below twice the Session's time, p99
below twice p50 at 32 clients, and 1.8 times the best other server. Where a row is below, **the aim is not reached**. What
is left is Python, on one event loop: about half of it grpcio's own, which a mere echo needs as well. A process a core has a loop
for each.

Tried and kept: requests joined by the server's own loop in place of TensorFlow's batch operation, which made a lone request wait for
as long as the model runs; a batch that waits for the clients that were just answered; calls in the calling thread; uvloop;
tensors read and written as arrays. Tried without a gain, or with a loss: gRPC's thread pool instead of its event loop,
batches run on the event loop, other priorities and switching intervals of Python's threads, two batches at once, one
thread within operations, smaller batches that overlap, weights frozen into constants.

{machine(stored)}"""


def processes() -> str:
    """Returns the section on several processes of the server."""
    stored = result("serving_processes")
    rows = []
    for network, found in stored["networks"].items():
        for way, seen in found["measured"].items():
            p50, p99 = (seen[key]["median"] for key in ("p50", "p99"))
            rows.append(
                [f"`{network}`, {way}", spread(seen["images"], 0), spread(seen["of one processor"], 2)]
                + [spread(seen["cpu"], 2, " ms"), f"{p50:.1f} / {p99:.1f} ms", f"{seen['start']:.1f} s"]
            )
        rows += [
            [f"`{network}`, {count} processors, by arithmetic", f"{images:,.0f}", "", "", "", ""]
            for count, images in found["by arithmetic"].items()
        ]
    head = ["", "images a second", "of one processor", "processor, an image", "p50 / p99", "start"]
    return f"""## Several processes

`python -m benchmarks.serving_processes`: the embedded server and the load, {stored["clients"]} clients with one image a request over gRPC, pinned
to the same processors by taskset; n = {stored["n"]} runs of {stored["seconds"]:.0f} s, in turn. Larger machines were not there: the rows by arithmetic take as
many images for each processor as on all of this machine's, since processes share nothing but the ports.

{table(head, rows)}
{machine(stored)}"""


def ingestion() -> str:
    """Returns the section on ingestion."""
    stored = result("ingest")
    counts, scaling = {"class folders": stored["pictures"]}, stored["scaling"]
    rows = []
    for name, value in stored["seconds"].items():
        way, _, pinned = name.partition(", ")
        cores = 1 if pinned or way not in scaling else stored["machine"]["cores"]
        rate = f"{counts.get(way, stored['images']) / value['median'] / cores:,.0f}"
        rows.append([name, spread(value, 2, " s"), rate, spread(scaling[name], 2) if name in scaling else ""])
    return f"""## Ingestion

`python -m benchmarks.ingest`: all {stored["images"]:,} images of MNIST, and {stored["pictures"]:,} PNG files of 128 x 128 in class folders, which are decoded;
n = {stored["n"]}, each time in a process of its own. Plain TFX hands Beam one element a record; it takes {spread(stored["ratio"], 2)}
times as long in the same run. Making and writing the records alone, in one thread, is the part that grows with the data;
the rest is Beam's start. Data as small as MNIST gain nothing from a second core; see "Data of several sizes".

{table(["", "time", "images a second and core", "one core / all"], rows)}
{machine(stored)}"""


def data_size() -> str:
    """Returns the section on data of several sizes."""
    stored = result("data_size")
    rows = []
    for size in stored["sizes"]:
        ingestion, (records, memory) = size["ingestion"], (size["trainer"][way] for way in ("records", "memory"))
        rows.append(
            [
                f"{size['gigabytes']:g} GB",
                f"{size['images']:,}",
                spread(ingestion["seconds"], 1, " s"),
                f"{size['images'] / ingestion['seconds']['median']:,.0f}",
                spread(ingestion["scaling"], 2),
                f"{ingestion['peak_gigabytes']['max']:.2f} GB",
                f"{records['peak_gigabytes']['max']:.2f} GB",
                f"{memory['peak_gigabytes']['max']:.2f} GB",
                spread(size["ratio"], 3),
            ]
        )
    head = (
        "pixels",
        "images",
        "ingestion",
        "images a second",
        "one core / all",
        "its peak memory",
        "trainer's peak memory",
        "with arrays in memory",
        "steps a second / with arrays",
    )
    return (
        "## Data of several sizes\n\n`python -m benchmarks.data_size`: images of 32 x 32 x 3, ingested and trained on "
        f"for {stored['steps']} steps of 50 by the tutorial's network for MNIST, n = {stored['n']}, in turn from where "
        f"the examples lie and from arrays in memory.\n\n{table(head, rows)}\n"
        "The trainer reads a batch when it is due; the operating system's page cache held the files.\n\n"
        f"{machine(stored)}"
    )


def training() -> str:
    """Returns the section on a training step."""
    stored = result("training")
    rows, shares = [], []
    for name, seen in stored["networks"].items():
        for way, value in seen["milliseconds"].items():
            rows.append([name, way, spread(value, 1, " ms"), spread(seen["ratio"][way], 2)])
        limits, of_limit = seen["limits"], seen["of_limit"]
        shares.append(
            [
                name,
                seen["precision"],
                f"{seen['operations'] / 1e9:.1f} GF",
                f"{seen['rate']['median'] / 1e9:.0f} GF/s",
                *(
                    f"{100 * of_limit[kind]['median']:.0f} % of {limits[kind]['median'] / 1e9:.0f} GF/s"
                    for kind in limits
                ),
                f"{100 * seen['input']['median']:.1f} %",
            ]
        )
    processes = [
        [name, *(spread(seen[part], 1, " s") for part in ("start", "end"))]
        for name, seen in stored["processes"].items()
    ]
    torch = next((seen["torch"] for seen in stored["networks"].values() if "torch" in seen), None)
    beside = f", PyTorch {torch}" if torch else ""
    head = ("network", "arithmetic", "a step", "rate", "of a large product", "of a large convolution", "input alone")
    return (
        f"## A training step\n\n`python -m benchmarks.training`: the tutorial's networks and batches, n = {stored['n']}, "
        f"in turn, each time in a process of its own, {stored['steps']} steps at once{beside}. The ratio is to "
        f"Conveyor's step beside it.\n\n{table(('network', 'way', 'a step', 'ratio'), rows)}\n"
        "Operations are those of convolutions and products, forwards and backwards. The large product is of two matrices "
        "of 2,048 x 2,048, the large convolution 5 x 5 from 64 to 64 channels on 128 images of 32 x 32, forwards. "
        "Plain TensorFlow is Conveyor's step without a compiled optimizer and without oneDNN, which TensorFlow leaves off by "
        "itself on processors without AVX512-VNNI. Where AVX2 is named, oneDNN was told to keep to such a processor's "
        "instructions; XLA, which compiles the optimizer, was not.\n\n"
        f"{table(head, shares)}\n"
        "A whole trainer's process: from its start to the end of its first step, with TensorFlow's import and the proof "
        "that the network can be served; and from its last step to its end, with the export and the test split's 2,000 "
        f"images here.\n\n{table(('network', 'to the first step', 'from the last'), processes)}\n{machine(stored)}"
    )


def workers() -> str:
    """Returns the section on several workers of a training."""
    stored = result("training_workers")
    rows = []
    for network, found in stored["networks"].items():
        images = [spread(seen, 0) for seen in found["images"].values()]
        shares = {key: 100 * value for key, value in found["communication"].items()}
        rows.append([f"`{network}`", *images, spread(found["gain"], 2), spread(shares, 0, " %")])
    ways = list(next(iter(stored["networks"].values()))["images"])
    return f"""## Several workers

`python -m benchmarks.training_workers`: images a second in training, n = {stored["n"]}, in turn, {stored["steps"]} steps each time, with one core a
worker, all on one machine. What two workers take longer for a step than one with half the batch is communication. The optimizer of
one worker alone is compiled by XLA.

{table(["network", *ways, "two / one", "communication"], rows)}
{machine(stored)}"""


def page() -> str:
    """Returns the whole page."""
    head = """<!-- Made by docs/make_measurements.py from benchmarks/results/. -->

# Measurements

`make bench` runs these and stores the results in `benchmarks/results/`, each with the machine, the versions, and hashes of
the benchmark and of the code. The tables show medians and ranges, as "median (least to greatest)". Times of different machines
do not compare; ratios within one run do.

"""
    sections = (overhead(), retraining(), training(), workers(), serving(), processes(), ingestion(), data_size())
    return head + "\n".join(sections)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/measurements.md is not what benchmarks/results/ says. Run `make docs`.")
