"""What one run is going to do, worked out once before it starts; all that follows reads it."""

import dataclasses
import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path

from components.code_digest import code_digest, whole_digest
from components.image_example_gen.data_error import DataError
from components.image_example_gen.shards import training_images
from components.image_example_gen.spans import span
from conveyor.errors import ConfigError
from conveyor.settings import to_json
from conveyor.words import counted
from pipeline.beam.runners import DIRECT, BeamRunner
from pipeline.data.inputs import Input, read_files, read_inputs
from pipeline.experiments.config import Experiment
from pipeline.experiments.network import copy_code
from pipeline.home.folders import Home
from pipeline.home.provenance import PartDigest, Provenance, trainer_digest
from pipeline.run.baseline import Baseline, find_baseline
from trainer.settings import TrainingJob


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run, before it starts.

    Attributes:
      run_id: `<experiment>-<time>-<fingerprint>`.
      experiment: the settings.
      home: where everything goes.
      inputs: the parts of the data with the checksums of their files, the base files first.
      compared: spans that the baseline was trained on and this run is not, for the comparison with what has arrived.
      missing: names of parts that the baseline was trained on, and that are not there any more as they were.
      baseline: the stable version; None where there is none to compare with.
      no_baseline: why the stable version is no baseline; empty where it is, or there is none.
      job: what is trained, and how; its code is a copy beside the checkpoints, which `stage_network` makes.
      warm_start: whether the training starts from the baseline's weights.
      checkpoints: folder of this training's checkpoints, named after all that determines its result.
      provenance: what the model will come from.
      beam: what the examples are ingested and evaluated on; the results are the same on all.
    """

    run_id: str
    experiment: Experiment
    home: Home
    inputs: tuple[Input, ...]
    compared: tuple[Input, ...]
    missing: tuple[str, ...]
    baseline: Baseline | None
    no_baseline: str
    job: TrainingJob
    warm_start: bool
    checkpoints: Path
    provenance: Provenance
    beam: BeamRunner = DIRECT

    @property
    def drift_sides(self) -> tuple[tuple[Input, ...], tuple[Input, ...]]:
        """What the baseline was trained on, and what has arrived since.

        Without a baseline that says what it was trained on, that is the base files and the spans.
        """
        sources = (*self.inputs, *self.compared)
        known = self.baseline if self.baseline and self.baseline.parts else None
        if known is None:
            return sources[:1], sources[1:]
        trained_on = tuple(source for source in sources if known.was_trained_on(source))
        return trained_on, tuple(source for source in sources if known.has_arrived_since(source))

    def stage_network(self) -> None:
        """Copies the network's code, so that the run goes on with what it began with; see `copy_code`."""
        copy_code(self.experiment.network, Path(self.job.network.folder))


def make_plan(experiment: Experiment, home: Home, folder: Path, beam: BeamRunner = DIRECT) -> RunPlan:
    """Returns the plan of a run of an experiment.

    Args:
      experiment: the settings.
      home: where everything goes.
      folder: the input files; see `pipeline.data.inputs.input_folder`.
      beam: what the examples are ingested and evaluated on.

    Raises:
      BaselineDamaged: the stable version is not the model that was pushed.
      ConfigError: a batch is larger than the data.
      DataError: a span is damaged, or the spans have no order.
      LabelsDamaged: nobody can say which version is stable.
    """
    inputs = read_inputs(folder, experiment)
    check_batch(experiment, inputs)
    baseline, no_baseline = find_baseline(home, experiment)
    warm_start = baseline is not None and experiment.training.warm_steps > 0
    job = experiment.training_job()
    if warm_start:
        job = dataclasses.replace(job, training=dataclasses.replace(job.training, steps=job.training.warm_steps))
    provenance = Provenance(
        experiment,
        part_digests(inputs),
        baseline.version if baseline and warm_start else None,
        trainer_digest(),
        whole_digest(),
        baseline.digest if baseline else "",
    )
    initial = provenance.baseline if warm_start else ""
    compared = _compared(experiment, folder, inputs, baseline)
    checkpoints = home.checkpoints / experiment.name / _training_key(experiment, job, provenance, initial)
    code = dataclasses.replace(job.network, folder=str(checkpoints / "network"))
    there = {source.part.name for source in (*inputs, *compared) if baseline and baseline.was_trained_on(source)}
    now = datetime.datetime.now(datetime.timezone.utc)
    return RunPlan(
        run_id=f"{experiment.name}-{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{provenance.fingerprint}",
        experiment=experiment,
        home=home,
        inputs=inputs,
        compared=compared,
        missing=tuple(name for name in (baseline.parts if baseline else ()) if name not in there),
        baseline=baseline,
        no_baseline=no_baseline,
        job=dataclasses.replace(job, network=code),
        warm_start=warm_start,
        checkpoints=checkpoints,
        provenance=provenance,
        beam=beam,
    )


def part_digests(inputs: Sequence[Input]) -> tuple[PartDigest, ...]:
    """Returns what a model's record says of the parts of its data."""
    return tuple(PartDigest(source.part.name, source.digest, source.part.trained_on) for source in inputs)


def check_batch(experiment: Experiment, inputs: tuple[Input, ...]) -> None:
    """Refuses a batch that is larger than all that is trained on: it would take memory for nothing."""
    try:
        images = sum(map(training_images, (source.part for source in inputs if source.part.trained_on)))
    except DataError:  # the ingestion tells of all that is wrong with the files
        return
    batch, workers = experiment.training.batch_size, experiment.training.workers
    if batch < workers:
        raise ConfigError(
            f"training.batch_size is {batch:,}, and training.workers {workers:,}: each needs an image of a batch."
        )
    if batch > images:
        raise ConfigError(
            f"training.batch_size is {batch:,}, and there are about {counted(images, 'image')} to train on."
        )


def _compared(
    experiment: Experiment, folder: Path, inputs: tuple[Input, ...], baseline: Baseline | None
) -> tuple[Input, ...]:
    """Returns the spans that the baseline was trained on, and that have left the window but are there as they were."""
    taken = {source.part.name for source in inputs}
    names = [name for name in (baseline.parts if baseline else ()) if name not in taken]
    dataset, share = experiment.dataset, experiment.spans.holdout_share
    found = [read_files(span(folder / name, dataset, share)) for name in names if (folder / name).is_dir()]
    return tuple(source for source in found if baseline and baseline.was_trained_on(source))


def _training_key(experiment: Experiment, job: TrainingJob, provenance: Provenance, initial: str) -> str:
    """Returns 16 hexadecimal digits of all that determines a training, but for what it is spread over.

    Args:
      experiment: whose data set.
      job: what is trained, and how.
      provenance: the data.
      initial: digest of the model whose weights the training starts from; empty for none.
    """
    code = code_digest("trainer.__main__", "trainer.layers", "components.image_example_gen.executor")
    # Wherever the code stands, and however many train: one that lost a machine goes on with fewer.
    network, training = dataclasses.replace(job.network, folder=""), dataclasses.replace(job.training, workers=1)
    job = dataclasses.replace(job, network=network, training=training)
    settings = [to_json(job), to_json(experiment.dataset), to_json(experiment.spans)]
    whole = "\n".join([*settings, provenance.data_digest, initial, code])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]
