#!/usr/bin/env bash
# The default tests with the oldest versions that pyproject.toml allows, in an environment of their own, .venv-floors.
set -euo pipefail
cd "$(dirname "$0")/.."
LIGHTPOSE_VENV=.venv-floors source scripts/venv.sh
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
python - > "$constraints" <<'PYTHON'
import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
for requirement in project["dependencies"] + [each for each in extras if not each.startswith("lightpose[")]:
    print(re.sub(r"^([\w.-]+)>=([\w.]+).*$", r"\1==\2", requirement))
PYTHON
python -m pip install --quiet --constraint "$constraints" --editable ".[dev]"
pytest "$@"
