from pipeline.run.console import Console


def test_what_ended_has_a_line_and_the_spans_of_the_cache_have_one_for_all(capsys):
    console = Console()
    ended = [
        ("ImageExampleGen", "done"),
        ("ImageExampleGen-span-1", "cached"),
        ("ImageExampleGen-span-2", "done"),
        ("ImageExampleGen-span-3", "cached"),
        ("ImageExampleGen-span-4", "cached"),
        ("Evaluator", "done"),
    ]
    for name, state in ended:
        console.start(name)
        console.end(name, state, 1.25)
    assert capsys.readouterr().out.splitlines() == [
        "  ImageExampleGen      done         1.2 s",
        "  1 span               cached       1.2 s",
        "  span-2               done         1.2 s",
        "  2 spans              cached       2.5 s",
        "  Evaluator            done         1.2 s",
    ]


def test_a_cached_trainer_has_one_line_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console()
    console.start("Trainer")
    console.end("Trainer", "cached", 0.1)
    out = capsys.readouterr().out
    up, erase = "\x1b[1A", "\r\x1b[2K"
    assert "running" in out
    assert out.index("running") < out.index(up + erase) < out.index("cached")


def test_what_runs_side_by_side_is_shown_together(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console()
    console.start("ServabilityCheck")
    console.start("Evaluator")
    console.end("ServabilityCheck", "done", 2)
    out = capsys.readouterr().out
    assert "ServabilityCheck, Evaluator running" in out
    assert out.rindex("Evaluator            running") > out.index("2.0 s")
