#!/usr/bin/env bash
# Everything that must hold before a change lands: style, types, tests. Makes .venv if there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/venv.sh
python -m pip install --quiet --editable ".[dev]"
bash scripts/check.sh
pytest "$@"
