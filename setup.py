"""Packaging of Conveyor: ranges only; the exact, hashed versions of each stack are in requirements/*.lock."""

from pathlib import Path

from setuptools import find_packages, setup

INSTALL_REQUIRES = [
    # What Conveyor is made of. TFX 1.16 is the newest that runs on glibc < 2.39, TFX 1.21 the newest of all.
    "tfx>=1.16,<1.22",  # the pipeline, its components and its metadata
    "tensorflow",  # networks, training, SavedModels; TFX chooses the version
    "tensorflow-serving-api",  # the protocol's messages and stubs; the warm-up requests TensorFlow Serving replays
    "apache-beam",  # runs ingestion, statistics and evaluation
    # What TFX needs and does not say.
    "dill",  # tfx_bsl and tensorflow_transform import it; apache-beam >= 2.69 no longer brings it
    "ipykernel",  # without it tensorflow_model_analysis loses half of its names on import
    "tensorboard",  # TensorFlow >= 2.20 no longer brings it
    # What a well-kept library does better than we would.
    "apprise",  # tells somebody how a run ended: e-mail, chat, webhooks
    "apscheduler>=3.10,<4",  # retrains by the clock
    "cronsim",  # which times a cron expression means, as Debian's cron does, also where the clocks change
    "aiohttp",  # the embedded server's REST API and page
    "click",  # the command line
    "flatbuffers",  # the SignatureDefs that a TensorFlow Lite file may hold; it comes with TensorFlow
    "filelock",  # one run at a time in a home folder
    "grpcio",  # the embedded server's and the client's gRPC
    "grpcio-health-checking",  # the standard health service
    "jinja2",  # the run report's page
    "keras-tuner",  # searches for settings
    "matplotlib",  # the run report's plots
    "numpy",  # images and tensors
    "pandas",  # rows of scalars, as tensorflow_data_validation takes them
    "orjson",  # the REST API's JSON: forty times as fast as the standard library's on images
    "pillow",  # decodes the PNG and JPEG files of a user's own data
    "protobuf",  # the client's messages
    "pydantic",  # settings that check themselves
    "pooch",  # downloads with a progress bar
    "scikit-learn",  # the report's metrics beside accuracy
    "scipy",  # turned and blurred images, for robustness
    "rich",  # tables and colours in a terminal
    "tqdm",  # progress bars of long work
    "tzdata",  # time zones, where the system has none
    "tzlocal",  # the name of this machine's time zone
    "uvloop",  # the embedded server's event loop: a tenth more requests than the standard library's
]

EXTRAS_REQUIRE = {
    "gpu": ["tensorflow[and-cuda]"],  # CUDA and cuDNN from PyPI, for machines that have a driver only
    "kubeflow": ["kfp-pipeline-spec"],  # the protocol of Kubeflow Pipelines; TFX says which of its versions
    "ray": ["ray[train]>=2.55,<3"],  # training on the machines of a Ray cluster
    "gcp": ["apache-beam[gcp]"],  # Beam on Dataflow and files on Google Cloud Storage
    # Linters, types, the direction of imports, and tests, two at a time (make test); hypothesis, which draws the
    # examples of tests of properties; kubernetes-validate and pyyaml, which know the schema of a CronJob; ovmsclient, a
    # client that others wrote; selenium, which drives a browser; litserve, a peer in the benchmarks. The documentation:
    # mkdocs-material builds it, docstring-parser reads the docstrings that its references are made of, latex2mathml
    # turns its formulas into what every browser shows.
    "dev": [
        "docstring-parser",
        "hypothesis",
        "import-linter",
        "kubernetes-validate",
        "latex2mathml",
        "litserve",
        "mkdocs-material",
        "mypy",
        "ovmsclient",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "pyyaml",
        "ruff",
        "selenium",
        "types-tqdm",
    ],
}

setup(
    name="conveyor-tfx",
    version="0.1.0",
    description="A TFX and Keras production pipeline: labelled images to a gated, pushed, servable network",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["tfx", "keras", "tensorflow", "tensorflow-serving", "pipeline", "mlops", "image classification"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # URLs are the owner's to fill in.
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["conveyor*", "pipeline*", "components*", "trainer*", "serving*"]),
    package_data={
        **{name: ["py.typed"] for name in ("conveyor", "pipeline", "components", "trainer", "serving")},
        "pipeline.experiments": ["*.j2"],
        "pipeline.report": ["*.j2"],
        "pipeline.schedule": ["*.j2"],
        "serving.server.page": ["static/*"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": ["conveyor=pipeline.cli.main:main", "conveyor_model_server=serving.server.__main__:main"]
    },
)
