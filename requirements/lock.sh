#!/usr/bin/env bash
# Resolves every stack anew, with hashes. Run it after a change of setup.py or of a *.in file: make lock
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${UV:-.venv/bin/uv}"
compile() { # stack, Python version, glibc
  "$uv" pip compile setup.py --extra dev --quiet --generate-hashes --no-header --no-emit-index-url \
    --constraint "requirements/$1.in" --override "requirements/overrides-$1.txt" \
    --python-version "$2" --python-platform "x86_64-manylinux_$3" \
    --output-file "requirements/$1-py${2/./}.lock"
  echo "requirements/$1-py${2/./}.lock"
}
compile tfx1.16 3.10 2_28
for version in 3.10 3.11 3.12 3.13; do
  compile tfx1.21 "$version" 2_39
done
# Clients that others wrote, each in an environment of its own in the tests; their modules are of protobuf before 3.21.
for client in min-tfs-client tensorflow-serving-client-grpc; do
  printf '%s\nprotobuf<3.21\n' "$client" | "$uv" pip compile - --quiet --universal --python-version 3.10 \
    --generate-hashes --no-header --no-emit-index-url --no-annotate --output-file "requirements/clients/$client.lock"
done
printf 'apache-airflow==2.10.5\n' | "$uv" pip compile - --quiet --universal --python-version 3.10 --generate-hashes \
  --no-header --no-emit-index-url --no-annotate --output-file requirements/clients/airflow.lock
printf 'kfp==2.17.0\n' | "$uv" pip compile - --quiet --universal --python-version 3.10 --generate-hashes --no-header \
  --no-emit-index-url --no-annotate --output-file requirements/clients/kfp.lock
# The protocol of Kubeflow Pipelines that TFX 1.16 is made for.
printf 'kfp-pipeline-spec==0.2.2\n' | "$uv" pip compile - --quiet --no-deps --universal --python-version 3.10 \
  --generate-hashes --no-header --no-emit-index-url --no-annotate --output-file requirements/extras/kubeflow.lock
# Ray, beside a stack that has what else it needs; its tests add it to theirs.
printf 'ray==2.55.1\nfsspec\nmsgpack\ntensorboardx\n' | "$uv" pip compile - --quiet --no-deps --universal \
  --python-version 3.10 --generate-hashes --no-header --no-emit-index-url --no-annotate \
  --output-file requirements/extras/ray.lock
echo "uv==0.13.9" | "$uv" pip compile - --quiet --universal --generate-hashes --no-header --no-emit-index-url \
  --output-file requirements/uv.lock
