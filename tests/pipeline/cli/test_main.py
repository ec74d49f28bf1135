import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main as main_module
from pipeline.cli.main import main
from pipeline.home import listing
from pipeline.home.outcome import Outcome, Verdict
from pipeline.run import runner
from serving.model_store.records import RECORD
from tests.pictures import draw_classes

ROOT = Path(__file__).parents[3]


@pytest.fixture
def conveyor(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVEYOR_HOME", str(tmp_path / "home"))
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("verb", main_module.VERBS)
def test_help_of_every_verb(conveyor, verb):
    result = conveyor(verb, "--help")
    assert result.exit_code == 0
    assert "\\b" not in result.output


@pytest.mark.parametrize("verb", main_module.VERBS)
def test_the_groups_help_lists_every_verb_once(conveyor, verb):
    names = [
        line.split()[0]
        for line in conveyor("--help").output.splitlines()
        if line.startswith("  ") and line[2:3].islower()
    ]
    assert names.count(verb) == 1


def test_the_groups_help_imports_no_verb():
    code = "import sys; from pipeline.cli.main import main; main(['--help'], standalone_mode=False); "
    code += "print(list(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "'pipeline.cli.run'" not in done.stdout
    assert "'numpy'" not in done.stdout


def test_help_keeps_its_lines(conveyor):
    assert "  conveyor serve\n  conveyor serve mnist" in conveyor("serve", "--help").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "imagenet"), "There is no experiment 'imagenet'"),
        (("run", "mnist", "--set", "training.stepz=1"), "Did you mean steps?"),
    ],
)
def test_usage_errors_end_with_2(conveyor, arguments, message):
    result = conveyor(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_data_that_are_nowhere_are_a_usage_error(conveyor, tmp_path):
    result = conveyor("run", "mnist", "--data", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert "nowhere: there is no such folder" in result.output


def test_unfetchable_data_ends_with_1(conveyor, tmp_path):
    result = conveyor("run", "mnist", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "mnist could not be fetched" in result.output


def test_failure_is_json_too(tmp_path, conveyor):
    result = conveyor("run", "mnist", "--json", "--data", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    told = json.loads(result.stdout[result.stdout.index("{") : result.stdout.rindex("}") + 1])
    assert told["verdict"] == "failed"
    assert "there is no such folder" in told["error"]


@pytest.mark.parametrize("arguments", [("mnist", "--set", "gate.min_accuracy=2"), ("imagenet",)])
def test_a_usage_error_is_json_too(conveyor, arguments):
    result = conveyor("run", *arguments, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout[: result.stdout.index("}") + 1])["verdict"] == "failed"


def test_failed_retraining_is_told_of(conveyor, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import dataclasses\nfrom conveyor import load_experiment\nMNIST = load_experiment('mnist')\n"
        "EXPERIMENT = dataclasses.replace(MNIST, dataset=dataclasses.replace(MNIST.dataset, name='own'))\n"
    )
    hook = f"tee {tmp_path / 'told'}"
    arguments = ("retrain", str(own), "--data", str(tmp_path / "nowhere"), "--hook", hook)
    assert conveyor(*arguments).exit_code == 2
    told = json.loads((tmp_path / "told").read_text())
    assert (told["experiment"], told["verdict"], told["exit_code"]) == ("mnist", "failed", 2)
    assert "there is no such folder" in told["error"]
    (tmp_path / "told").unlink()
    assert conveyor(*arguments, "--notify-on", "pushed").exit_code == 2
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist", "--set", "gate.min_accuracy=2"), "it should be less than or equal to 1"),
        (("gone.py",), "There is no file gone.py"),
    ],
    ids=["a wrong setting", "no experiment"],
)
def test_what_ends_a_retraining_before_it_begins_is_told_of(conveyor, tmp_path, arguments, message):
    assert conveyor("retrain", *arguments, "--hook", f"tee {tmp_path / 'told'}").exit_code == 2
    told = json.loads((tmp_path / "told").read_text())
    assert (told["experiment"], told["verdict"], told["exit_code"]) == (arguments[0], "failed", 2)
    assert message in told["error"]


def test_a_bug_is_told_of_and_keeps_its_traceback(conveyor, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(runner, "run", fail)
    result = conveyor("retrain", "mnist", "--hook", f"tee {tmp_path / 'told'}")
    assert isinstance(result.exception, RuntimeError)
    assert json.loads((tmp_path / "told").read_text())["error"] == "RuntimeError: a bug"


def test_an_export_notifies_as_the_schedule_would(conveyor):
    notified = ("--hook", "/opt/tell it", "--notify-on", "failed")
    result = conveyor("schedule", "mnist", "--cron", "0 3 * * *", "--export", "crontab", *notified)
    assert result.exit_code == 0
    assert "--notify-on failed --hook '/opt/tell it'" in result.output


def test_an_export_holds_no_addresses_and_says_so(conveyor):
    result = conveyor("schedule", "mnist", "--cron", "0 3 * * *", "--export", "crontab", "--notify", "json://u:pw@h")
    assert result.exit_code == 2
    assert "set $CONVEYOR_NOTIFY where the job runs" in result.output.replace("\n", " ")
    assert "pw@" not in result.output


def test_nothing_to_move(conveyor):
    for verb in ("rollback", "promote", "lineage"):
        result = conveyor(verb, "mnist")
        assert result.exit_code == 2
        assert "No model mnist has been pushed" in result.output


def test_empty_home(conveyor):
    assert "Nothing has run" in conveyor("runs").output
    assert "Nothing has been pushed" in conveyor("models").output
    result = conveyor("evaluate", "imagenet")
    assert result.exit_code == 2


def test_version(conveyor):
    assert conveyor("--version").output.startswith("conveyor, version ")


def test_damaged_metadata_is_a_sentence(conveyor, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "metadata.db").write_bytes(b"this is no database" * 1000)
    result = conveyor("runs")
    assert result.exit_code == 1
    assert "metadata.db is damaged: file is not a database" in result.output
    assert "Traceback" not in result.output


def test_home_that_cannot_be_made_is_a_sentence(conveyor, tmp_path):
    (tmp_path / "file").touch()
    result = conveyor("fetch", "mnist", "--home", str(tmp_path / "file" / "home"))
    assert result.exit_code == 2
    assert f"{tmp_path / 'file'} is a file" in result.output


def test_a_model_is_rolled_back_by_the_name_of_an_experiment_whose_file_is_gone(conveyor, tmp_path):
    for version in ("1", "2"):
        record = tmp_path / "home" / "serving" / "its_model" / version / RECORD
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"experiment": {"name": "gone"}}))
    result = conveyor("rollback", "gone")
    assert result.exit_code == 0, result.output
    assert "its_model: version 1 is stable in place of 2." in result.output
    assert conveyor("rollback", "another").exit_code == 2


def test_a_models_own_name_comes_before_an_experiments(conveyor, tmp_path):
    for model in ("aaa", "bbb", "flowers"):
        for version in ("1", "2"):
            record = tmp_path / "home" / "serving" / model / version / RECORD
            record.parent.mkdir(parents=True)
            record.write_text(json.dumps({"experiment": {"name": "roses" if model == "bbb" else "flowers"}}))
    assert "flowers: version 1 is stable in place of 2." in conveyor("rollback", "flowers").output
    (tmp_path / "home" / "serving" / "flowers").rename(tmp_path / "home" / "serving" / "another")
    result = conveyor("rollback", "flowers")
    assert result.exit_code == 2
    assert "Versions of flowers are in several models: name one of aaa, another." in result.output


@pytest.mark.parametrize("verb", ["models", "gc"])
def test_an_experiment_whose_file_is_gone_is_named(conveyor, verb, tmp_path):
    record = tmp_path / "home" / "serving" / "gone" / "1" / RECORD
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"experiment": {"name": "gone"}}))
    result = conveyor(verb, "gone")
    assert result.exit_code == 0, result.output


def test_the_runs_of_an_experiment_whose_file_is_gone_are_listed(conveyor, monkeypatch):
    monkeypatch.setattr(listing, "run_rows", lambda home, experiment: [{"run": f"{experiment}-1"}])
    result = conveyor("runs", "gone")
    assert result.exit_code == 0
    assert "gone-1" in result.output


@pytest.mark.parametrize("verb", ["runs", "models", "gc"])
def test_an_experiment_that_nothing_is_known_of_is_refused(conveyor, verb):
    result = conveyor(verb, "gone")
    assert result.exit_code == 2
    assert "There is no experiment 'gone', and nothing of that name in" in result.output


@pytest.mark.parametrize("arguments", [("gc",), ("gc", "--yes"), ("runs",), ("models",), ("doctor",)])
def test_a_look_makes_no_home(conveyor, tmp_path, arguments):
    assert conveyor(*arguments).exit_code in (0, 1)  # a doctor may find something else
    assert not (tmp_path / "home").exists()


def test_no_home_has_no_copy_of_its_metadata(conveyor, tmp_path):
    result = conveyor("doctor", "--restore-metadata")
    assert result.exit_code == 2
    assert "There is no home folder" in result.output
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("verb", main_module.VERBS)
def test_every_help_fits_a_terminal_and_tells_the_exit_codes(verb):
    result = CliRunner().invoke(main, [verb, "--help"], terminal_width=80)
    assert [line for line in result.output.splitlines() if len(line) > 80] == []
    assert "Exit codes  0  " in result.output


def test_what_was_trained_on_a_span_is_told_when_it_is_taken_out(conveyor, tmp_path):
    (tmp_path / "home" / "data" / "mnist" / "span-1").mkdir(parents=True)
    for version, parts in ((1, {"base": "0"}), (2, {"base": "0", "span-1": "1"})):
        record = tmp_path / "home" / "serving" / "mnist" / str(version) / "assets.extra" / "conveyor.json"
        record.parent.mkdir(parents=True)
        (record.parents[1] / "saved_model.pb").touch()
        record.write_text(json.dumps({"parts": parts}))
    result = conveyor("remove", "mnist", "span-1", "--json")
    assert json.loads(result.output[result.output.index("{") :])["versions"] == [2]
    kept = tmp_path / "home" / "data" / "mnist" / ".removed" / "span-1"
    assert kept.is_dir()
    assert f"span-1 is taken out, and kept in {kept}." in result.output
    assert "and still there: version 2 of mnist." in result.output
    again = conveyor("remove", "mnist", "span-1")
    assert again.exit_code == 2
    assert "There is no span 'span-1'" in again.output


def test_a_schedule_of_your_own_data_needs_their_folder(conveyor, tmp_path):
    (tmp_path / "own.py").write_text(
        "import dataclasses\nfrom conveyor import load_experiment\nMNIST = load_experiment('mnist')\n"
        "EXPERIMENT = dataclasses.replace(MNIST, dataset=dataclasses.replace(MNIST.dataset, name='own'))\n"
    )
    for more in ((), ("--export", "crontab")):
        result = conveyor("schedule", str(tmp_path / "own.py"), "--cron", "0 3 * * *", *more)
        assert result.exit_code == 2
        assert "give its folder with --data" in result.output


def test_a_usage_error_of_the_command_line_is_json_too(conveyor):
    result = conveyor("run", "mnist", "--json", "--unknown")
    assert result.exit_code == 2
    assert "--unknown" in json.loads(result.stdout[: result.stdout.index("}") + 1])["error"]


@pytest.mark.parametrize("verb", main_module.VERBS)
def test_a_verbs_help_begins_as_the_groups_help_says(verb):
    command = main.get_command(None, verb)
    assert command.get_short_help_str(200).rstrip(".") == main_module.VERBS[verb][1].rstrip(".")


def test_a_wrong_notification_address_is_no_matter_for_a_list(conveyor, monkeypatch):
    monkeypatch.setenv("CONVEYOR_NOTIFY", "bad://")
    assert conveyor("schedule", "--list").exit_code == 0


@pytest.mark.parametrize("verb", ["run", "fetch"])
def test_a_home_that_cannot_hold_data_is_a_sentence(conveyor, tmp_path, verb):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").touch()
    result = conveyor(verb, "mnist")
    assert result.exit_code == 1
    assert "mnist cannot be stored in" in result.output


OWN = (
    "import dataclasses\nfrom conveyor import load_experiment\nMNIST = load_experiment('mnist')\n"
    "EXPERIMENT = dataclasses.replace(MNIST, name='own', dataset=dataclasses.replace(MNIST.dataset, name='own'))\n"
)


@pytest.fixture
def ran(monkeypatch):
    """What runs were asked for: their experiments and data folders."""
    asked = []

    def run(experiment, home, source, console, only_new=False, beam=None, planned=lambda: None):
        planned()
        asked.append((experiment, source))
        return Outcome(Verdict.PUSHED, "r1")

    monkeypatch.setattr(runner, "run", run)
    return asked


def test_a_file_and_its_data_are_named_once(conveyor, tmp_path, ran, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    assert conveyor("run", "own.py", "--data", "images").exit_code == 0
    monkeypatch.chdir("/")
    for verb in ("run", "retrain"):
        assert conveyor(verb, "own").exit_code == 0
    assert conveyor("retrain", str(tmp_path / "own.py")).exit_code == 0
    assert [(experiment.name, str(folder)) for experiment, folder in ran] == [("own", "images")] + [
        ("own", str(tmp_path / "images"))
    ] * 3
    (tmp_path / "images").rmdir()
    result = conveyor("retrain", "own")
    assert result.exit_code == 2
    assert f"--data {tmp_path / 'images'}: there is no such folder" in result.output


def test_published_data_are_not_remembered(conveyor, tmp_path, ran):
    (tmp_path / "images").mkdir()
    assert conveyor("run", "mnist", "--data", str(tmp_path / "images")).exit_code == 0
    assert conveyor("run", "mnist").exit_code == 0
    set_once = ("--set", "dataset.name=mine")
    assert conveyor("run", "mnist", "--data", str(tmp_path / "images"), *set_once).exit_code == 0
    assert conveyor("run", "mnist").exit_code == 0
    assert [folder for _, folder in ran] == [tmp_path / "images", None] * 2


def test_a_setting_stands(conveyor, ran):
    result = conveyor("set", "mnist", "training.warm_steps=500", "--json")
    assert json.loads(result.stdout[result.stdout.index("{") :]) == {
        "experiment": "mnist",
        "settings": {"training.warm_steps": "500"},
        "data": None,
    }
    assert conveyor("retrain", "mnist").exit_code == 0
    assert conveyor("retrain", "mnist", "--set", "training.warm_steps=7").exit_code == 0
    said = conveyor("set", "mnist", "training.warm_steps=500", "gate.tolerance=0.1").output
    assert said == "mnist: training.warm_steps is 500 from now on.\nmnist: gate.tolerance is 0.1 from now on.\n"
    said = conveyor("set", "mnist", "--unset", "training.warm_steps")
    assert (said.exit_code, said.output) == (0, "mnist: training.warm_steps is 0 again from now on.\n")
    assert conveyor("retrain", "mnist").exit_code == 0
    assert [experiment.training.warm_steps for experiment, _ in ran] == [500, 7, 0]


def test_settings_say_where_they_come_from(conveyor):
    conveyor("set", "mnist", "training.warm_steps=500")
    result = conveyor("settings", "mnist", "--json")
    told = json.loads(result.stdout[result.stdout.index("{") :])
    assert {"field": "training.warm_steps", "value": 500, "origin": "standing"} in told["settings"]
    assert {"field": "gate.tolerance", "value": 0.005, "origin": "default"} in told["settings"]
    lines = conveyor("settings", "mnist").output.splitlines()
    assert ["training.warm_steps", "500", "standing"] in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist",), "Give a FIELD=VALUE, --unset FIELD or --data FOLDER"),
        (("mnist", "--data", "/nowhere"), "--data /nowhere: there is no such folder"),
        (("mnist", "serving.model_name=../x"), "serving.model_name=../x: it should hold letters, digits"),
        (("imagenet", "training.steps=1"), "There is no experiment 'imagenet'"),
        (("mnist", "--data", "/tmp"), "--data /tmp: the data of mnist are published ones, which are downloaded"),
    ],
)
def test_what_cannot_be_set_is_a_usage_error(conveyor, arguments, message):
    result = conveyor("set", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_what_is_refused_beside_a_setting_leaves_that_as_it_was(conveyor, tmp_path):
    assert conveyor("set", "mnist", "training.steps=7", "--data", str(tmp_path)).exit_code == 2
    assert not (tmp_path / "home" / "experiments").exists()


def test_pictures_in_a_folder_make_an_experiment(conveyor, tmp_path, ran):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 5, "rose": 5})
    (folder / "empty").mkdir()
    assert conveyor("run").exit_code == 2
    result = conveyor("run", "--data", str(folder))
    assert result.exit_code == 0, result.output
    said = (
        "flowers: 2 classes (daisy, rose); pictures become 32 x 32 x 3 (pad); a hash holds out 25 % for eval and 25 % "
        "for test; 300 steps of 2; pushed from an accuracy of 55 % on. `conveyor settings flowers` shows all. "
        "Not used: empty (no picture in it).\n"
    )
    assert said in result.output
    assert conveyor("retrain", "flowers", "--set", "training.steps=5").exit_code == 0
    assert [(experiment.name, experiment.training.steps, folder) for experiment, folder in ran] == [
        ("flowers", 300, folder),
        ("flowers", 5, folder),
    ]
    checked = conveyor("check", "--data", str(folder), "--json")
    assert said in checked.output
    assert json.loads(checked.stdout[checked.stdout.index("{") :])["parts"][0]["images"] == 10


@pytest.mark.parametrize("verb", ["runs", "models", "lineage", "rollback", "gc", "evaluate"])
def test_every_verb_takes_the_names_that_the_home_knows(conveyor, tmp_path, ran, verb):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "images").mkdir()
    assert conveyor(verb, "own").exit_code == 2
    assert "There is no experiment 'own'" in conveyor(verb, "own").output
    conveyor("run", str(tmp_path / "own.py"), "--data", str(tmp_path / "images"))
    result = conveyor(verb, "own")
    assert "There is no experiment" not in result.output


def test_a_verb_that_is_none_is_json_too(conveyor):
    result = conveyor("bogus", "--json")
    assert result.exit_code == 2
    assert "No such command 'bogus'" in json.loads(result.stdout[: result.stdout.index("}") + 1])["error"]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("runs",), "runs"),
        (("models",), "models"),
        (("gc",), "folders"),
        (("doctor",), "findings"),
        (("settings", "mnist"), "settings"),
        (("schedule", "--list"), "schedules"),
        (("schedule", "mnist", "--cron", "0 3 * * *", "--export", "systemd"), "conveyor-mnist.timer"),
    ],
)
def test_json_is_one_object(conveyor, arguments, key):
    result = conveyor(*arguments, "--json")
    assert key in json.loads(result.stdout[result.stdout.index("{") :])  # the rest is on standard error, in a shell


def test_names_run_no_code_where_a_name_is_enough(conveyor, tmp_path, ran):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    (tmp_path / "images").mkdir()
    assert conveyor("run", str(own), "--data", str(tmp_path / "images")).exit_code == 0
    record = tmp_path / "home" / "serving" / "its_model" / "1" / RECORD
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"experiment": {"name": "own"}}))
    own.write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')")
    for arguments in (("runs",), ("models",), ("gc",), ("rollback",)):
        conveyor(*arguments, "own")
    conveyor("predict", "own", str(own), "--target", "localhost:1", "--timeout", "0.1")
    assert not (tmp_path / "was_run").exists()


def test_predict_needs_no_home(conveyor, tmp_path):
    (tmp_path / "file").touch()
    result = conveyor(
        "predict", "mnist", str(tmp_path / "file"), "--home", str(tmp_path / "file"), "--target", "localhost:1"
    )
    assert "No server answers at localhost:1" in result.output


@pytest.mark.parametrize("kind", ["crontab", "systemd"])
def test_an_export_names_files_wherever_they_are_and_remembers_nothing(conveyor, tmp_path, kind):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "images").mkdir()
    arguments = (str(tmp_path / "own.py"), "--data", str(tmp_path / "images"), "--cron", "0 3 * * *")
    result = conveyor("schedule", *arguments, "--export", kind)
    assert result.exit_code == 0, result.output
    assert (
        f"retrain {tmp_path / 'own.py'} --home {tmp_path / 'home'} --data {tmp_path / 'images'} --gc" in result.output
    )
    assert not (tmp_path / "home").exists()
    refused = conveyor("schedule", *arguments, "--export", "kubernetes")
    assert (refused.exit_code, "The container has the home folder alone" in refused.output) == (2, True)


def test_a_bug_is_json_too(conveyor, monkeypatch):
    monkeypatch.setattr(listing, "run_rows", lambda *_: 1 / 0)
    result = conveyor("runs", "--json")
    assert isinstance(result.exception, ZeroDivisionError)
    assert json.loads(result.stdout) == {"verdict": "failed", "error": "division by zero"}


def test_what_is_refused_is_not_remembered(conveyor, tmp_path):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 9, "rose": 9}, (4, 4))
    result = conveyor("run", "--data", str(folder), "--set", "training.batch_size=5000")
    assert result.exit_code == 2
    assert "training.batch_size is 5,000, and there are about" in result.output
    assert not (tmp_path / "home" / "experiments").exists()
