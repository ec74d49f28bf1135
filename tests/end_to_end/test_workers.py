"""Several workers train together: on this machine, and on a Ray cluster of two nodes, which are processes of it."""

import os
import signal

from components.network_trainer.local_workers import _free_ports, tf_config


def test_two_workers_train_what_one_goes_on_with(conveyor):
    code, out = conveyor.run("training.workers=2", "training.precision=float32")
    assert code == 0, out
    assert "Training on 2 workers, each with CPU, float32." in out
    assert conveyor.reports()[-1]["training"]["device"] == "2 workers, each with CPU, float32"
    code, out = conveyor.run("training.precision=float32")
    assert "Continuing from the checkpoint at step 30." in out  # where the others ended: it is the same training


def test_a_job_controller_places_the_workers(conveyor, monkeypatch):
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    arguments = conveyor.run_arguments("training.precision=float32")
    monkeypatch.setenv("TF_CONFIG", tf_config(addresses, 1))
    with conveyor.start(*arguments) as other:
        monkeypatch.setenv("TF_CONFIG", tf_config(addresses, 0))
        code, out = conveyor(*arguments)
        printed = other.stdout.read()
    assert code == 0, out
    assert "Training on 2 workers, each with CPU, float32." in out
    assert other.returncode == 0, printed
    assert "Takes part in a training whose chief is elsewhere (TF_CONFIG)" in printed
    assert "step" not in printed
    assert conveyor.versions() == ["1"]


def test_a_ray_cluster_trains_and_goes_on_without_the_node_that_it_loses(conveyor, ray, cluster, monkeypatch):
    address, second = cluster
    for name, value in {**ray, "RAY_ADDRESS": address}.items():
        monkeypatch.setenv(name, value)
    arguments = conveyor.run_arguments("training.workers=2", "training.steps=400", "training.precision=float32")
    with conveyor.start(*arguments) as process:
        try:
            printed = ""
            for line in process.stdout:
                printed += line
                if line.startswith("step 20,"):
                    os.kill(second, signal.SIGKILL)
            process.wait()
        finally:
            process.kill()
    assert process.returncode == 0, printed
    first, *others = [line for line in printed.splitlines() if line.startswith("Training on ")]
    assert first == "Training on 2 workers, each with CPU, float32."
    assert others[-1] == "Training on CPU, float32."
    assert "Continuing from the checkpoint at step " in printed
    assert "step 400, training accuracy" in printed
    assert conveyor.versions() == ["1"]


def test_a_wrong_address_is_told_before_any_work(conveyor, ray, monkeypatch):
    for name, value in {**ray, "RAY_ADDRESS": "127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    code, out = conveyor.run("training.workers=2")
    assert code == 1
    assert "There is no Ray cluster at 127.0.0.1:1, as RAY_ADDRESS says: [Errno 111] Connection refused." in out
    assert conveyor.states() == []
