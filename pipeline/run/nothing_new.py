"""Decides whether a run would only repeat the last one."""

from pipeline.home.outcome import Outcome, Verdict
from pipeline.home.reports import page_path, read_report
from pipeline.run.plan import RunPlan


def repeated_outcome(plan: RunPlan, also_rejected: bool) -> Outcome | None:
    """Returns how the run would end, if settings, data and code are those of the last completed run; else None.

    What was pushed then must still be there as it was. A rejection holds as long as the version that the model was
    compared with, and perhaps started from, is the stable one.

    Args:
      plan: the run.
      also_rejected: whether a rejection counts as well; a person who runs it again may want to see it fail again.
    """
    if not plan.home.has_metadata:
        return None
    from pipeline.home import metadata_store

    last = metadata_store.last_completed(metadata_store.connect(plan.home), plan.experiment.name)
    if last is None or last.fingerprint != plan.provenance.fingerprint or (last.version is None and not also_rejected):
        return None
    model = plan.home.models.model(plan.experiment.serving.model_name)
    if last.version is not None and not model.is_as_pushed(last.version):
        return None
    report, page = read_report(plan.home, last.id), page_path(plan.home, last.id)
    if last.version is None and report.baseline != plan.provenance.baseline:
        return None
    return Outcome(
        Verdict.NOTHING_NEW if also_rejected else Verdict.UP_TO_DATE,
        last.id,
        accuracy=report.outcome.get("accuracy"),
        baseline=report.outcome.get("baseline"),
        decline=report.outcome.get("decline"),
        reasons=tuple(report.outcome.get("reasons", ())),
        drift=tuple(report.outcome.get("drift", ())),
        formats=report.outcome.get("formats", {}),
        version=last.version,
        stable=model.stable(),
        label=None if last.version is None else model.label_of(last.version),
        path=None if last.version is None else str(model.path(last.version)),
        report=str(page) if page.exists() else None,
    )
