#!/usr/bin/env bash
# From nothing to a trained model: installs lightpose in .venv, makes a data set, trains, evaluates, predicts.
# Takes the output folder as its argument (quickstart/ by default).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-quickstart}
if [ -e "$out" ]; then
  echo "error: $out exists; delete it or give another folder: bash scripts/quickstart.sh FOLDER" >&2
  exit 1
fi
source scripts/venv.sh
python -m pip install --quiet --editable .
began=$SECONDS

lightpose-data synthetic out="$out/train" images=1200 seed=0
lightpose-data synthetic out="$out/val" images=200 seed=1
lightpose-data synthetic out="$out/new" images=8 seed=2
made=$SECONDS

lightpose-train experiment=quickstart output_dir="$out/run" \
  data.train="$out/train/annotations.json" data.images="$out/train/images" \
  data.val="$out/val/annotations.json" data.val_images="$out/val/images"
trained=$SECONDS

lightpose-eval ckpt="$out/run/checkpoints/best.ckpt" \
  annotations="$out/val/annotations.json" images="$out/val/images" out="$out/evaluation"
evaluated=$SECONDS

lightpose-predict ckpt="$out/run/checkpoints/best.ckpt" source="$out/new/annotations.json" out="$out/predictions"

echo
echo "data set      $((made - began)) s   $out/train, $out/val, $out/new"
echo "training      $((trained - made)) s   $out/run/checkpoints/best.ckpt"
echo "evaluation    $((evaluated - trained)) s   OKS AP $(python -c "import json; print(round(json.load(open('$out/evaluation/metrics.json'))['AP'], 4))")"
echo "prediction    $((SECONDS - evaluated)) s   $out/predictions/predictions.json, pictures in $out/predictions/overlays"
