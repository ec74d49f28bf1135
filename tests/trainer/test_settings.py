import dataclasses
import json

from trainer.settings import Job


def test_job_survives_json(cifar10_job):
    assert Job.from_dict(json.loads(json.dumps(dataclasses.asdict(cifar10_job)))) == cifar10_job
