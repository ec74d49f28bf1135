import pytest

from conveyor.errors import ConfigError
from pipeline.beam.runners import DIRECT, FILE, NAMES, BeamRunner


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_a_runner(name):
    assert BeamRunner.of(name, "--beam").name == name


def test_options_stand_behind_the_name():
    runner = BeamRunner.of("flink --flink_master=host:8081 --parallelism=4 --parallelism=8", "--beam")
    assert runner.option("flink_master") == "host:8081"
    assert runner.option("parallelism") == "8"  # the last one counts
    assert runner.option("flink_version") is None


def test_a_file_holds_a_name_or_beams_own_options(tmp_path):
    path = tmp_path / "options"
    path.write_text("# of the data team\n--runner=PortableRunner\n--job_endpoint='a host:8099'  # theirs\n")
    runner = BeamRunner.of(str(path), "--beam")
    assert (runner.name, runner.option("job_endpoint")) == ("PortableRunner", "a host:8099")
    path.write_text("spark --spark_master_url=spark://host:7077")
    assert BeamRunner.of(str(path), "--beam").name == "spark"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flonk", "there is no runner 'flonk', and no file of that name. There are direct, multiprocess, flink"),
        ("flink host:8081", "'host:8081' is no option of Beam's"),
        ("flink --runner=SparkRunner", "it names two runners, flink and SparkRunner"),
        ("--flink_master=host:8081", "it names no runner"),
        ("'", "No closing quotation"),
        (" ", "it names no runner"),
        ("", "it names no runner"),
        ("--runner=", "it names no runner"),
        ("flink --parallelism=x", "--parallelism=x is no number"),
        ("~nouser/x", "there is no runner '~nouser/x'"),
        (f"flonk{'k' * 300}", "there is no runner 'flonkk"),
    ],
)
def test_what_is_no_runner_is_a_sentence(text, says):
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")) as error:
        BeamRunner.of(text, "--beam")
    assert str(error.value).startswith("--beam: ")


def test_the_command_comes_before_the_environment_and_that_before_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("CONVEYOR_BEAM", raising=False)
    assert BeamRunner.chosen(tmp_path) == DIRECT
    (tmp_path / FILE).write_text("multiprocess\n")
    assert BeamRunner.chosen(tmp_path) == BeamRunner("multiprocess", (), str(tmp_path / FILE))
    monkeypatch.setenv("CONVEYOR_BEAM", "spark")
    assert BeamRunner.chosen(tmp_path) == BeamRunner("spark", (), "$CONVEYOR_BEAM")
    assert BeamRunner.chosen(tmp_path, "direct") == BeamRunner("direct", (), "--beam")


def test_a_runner_comes_before_a_file_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "direct").write_text("flink --flink_master=elsewhere:1")
    assert BeamRunner.of("direct", "--beam").name == "direct"


def test_beams_own_names_are_ours():
    assert BeamRunner.of("--runner=DirectRunner", "") == BeamRunner("direct", (), "")
    assert BeamRunner.of("--runner=dataflow --region=r", "") == BeamRunner("dataflow", ("--region=r",), "")
    assert BeamRunner.of("--runner=FlinkRunner", "").name == "flink"


@pytest.mark.parametrize("content", [b"\xff\xfe", None, "link", b"\xef\xbb\xbfmultiprocess"])
def test_a_homes_file_that_cannot_be_read_is_told(tmp_path, monkeypatch, content):
    monkeypatch.delenv("CONVEYOR_BEAM", raising=False)
    path = tmp_path / FILE
    if content is None:
        path.mkdir()
    elif content == "link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(content)
    if content == b"\xef\xbb\xbfmultiprocess":  # with the mark that some editors write
        assert BeamRunner.chosen(tmp_path).name == "multiprocess"
    else:
        with pytest.raises(ConfigError, match=f"{path} cannot be read"):
            BeamRunner.chosen(tmp_path)


def test_what_is_here_needs_no_cluster():
    assert DIRECT.is_here
    assert BeamRunner("multiprocess").is_here
    assert not any(
        BeamRunner.of(name, "").is_here for name in ("flink", "spark", "dataflow", "--runner=PortableRunner")
    )


def test_work_without_pythons_lock_gets_a_thread_a_core():
    assert "--direct_running_mode=in_memory" in DIRECT.arguments(divides=False)
    assert "--direct_running_mode=multi_threading" in DIRECT.arguments(divides=True)
    assert "--direct_running_mode=multi_processing" in BeamRunner("multiprocess").arguments(divides=False)


def test_a_cluster_has_workers_beside_it_unless_told_otherwise():
    options = BeamRunner.of("flink --environment_type=DOCKER", "").arguments(divides=True)
    assert options[0] == "--runner=FlinkRunner"
    assert options.index("--environment_type=EXTERNAL") < options.index("--environment_type=DOCKER")  # which counts
    assert "--environment_config=localhost:50000" in options
    assert BeamRunner.of("dataflow --region=r", "").arguments(divides=True) == ["--runner=DataflowRunner", "--region=r"]
