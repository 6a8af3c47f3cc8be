#!/bin/sh
# Make an environment, install drstool with its test extra, run all tests.
# DRSTOOL_ENV names the environment's folder (default .venv); arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. examples/environment.sh
make_environment "[test]"
# One thread a process: several processes with several threads each get in each other's way.
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
exec python -m pytest -n "${DRSTOOL_TEST_PROCESSES:-2}" -q "$@"
