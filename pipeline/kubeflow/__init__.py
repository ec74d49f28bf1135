"""One planned run as a pipeline of Kubeflow Pipelines, and what its containers run."""
