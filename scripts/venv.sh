# Sourced by the other scripts: makes .venv (or $LIGHTPOSE_VENV) next to them on first use, and activates it.
environment=${LIGHTPOSE_VENV:-.venv}
if [ ! -x "$environment/bin/python" ]; then
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lightpose needs Python 3.11 or newer, found $(python3 --version)" >&2; exit 1; }
  python3 -m venv "$environment"
fi
source "$environment/bin/activate"
