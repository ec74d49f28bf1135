def write(home, experiment, run, data_digest, failure=None):
    from pipeline.runner import Outcome
    return Outcome("pushed" if run.version else "rejected", run.id, version=run.version)
