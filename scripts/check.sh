#!/usr/bin/env bash
# Style and types; seconds. Needs the dev extra in .venv (scripts/test.sh installs it).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/venv.sh
ruff check .
ruff format --check .
mypy --strict src
