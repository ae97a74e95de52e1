#!/bin/bash
# Runs the fuzz target for some minutes, with a stable Rust: libFuzzer needs no more than the compiler's coverage marks.
# Everything it makes lies under target/fuzz of the repository. The first input that breaks a promise ends it.
# usage: run.sh [MINUTES]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
work=${FUZZ_DIR:-$root/target/fuzz}
seconds=$((${1:-60} * 60))
host=$(rustc -vV | sed -n 's/^host: //p')

# A seed for each fixture: its files, each behind a line with its name.
seeds=$work/seeds
rm -rf "$seeds"
mkdir -p "$seeds" "$work/corpus"
seed() { # NAME FOLDER FILE...
  local out=$seeds/$1 folder=$2 file
  shift 2
  for file; do
    printf '##### %s\n' "$file"
    cat "$folder/$file"
    echo
  done > "$out"
}
for folder in "$root"/tests/fixtures/compose/*/; do
  mapfile -t files < <(cd "$folder" && find . -type f ! -name arguments -printf '%P\n' | sort)
  seed "oracle-$(basename "$folder")" "$folder" "${files[@]}"
done
for file in "$here"/../tests/fixtures/damaged/*.yaml; do
  seed "damaged-$(basename "$file" .yaml)" "$(dirname "$file")" "$(basename "$file")"
  sed -i '1s/.*/##### compose.yaml/' "$seeds/damaged-$(basename "$file" .yaml)"
done
cp "$here"/seeds/* "$seeds"

# Words to put in: the names of attributes, and what has a meaning in values.
{
  cut -f1 "$here/../src/compose/attributes.tsv" | tr '.' '\n' | sed 's/\[\]$//' | grep -E '^[a-z_0-9]+$' | sort -u
  cat "$here/words.txt"
} | sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&"/' > "$work/words.dict"

cd "$here"
marks='-Cpasses=sancov-module'
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  marks+=" -Cllvm-args=-sanitizer-coverage-$option"
done
RUSTFLAGS="$marks -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1 --cfg fuzzing" CARGO_PROFILE_RELEASE_LTO=false \
  "${CARGO:-cargo}" build --locked --release --target "$host" --target-dir "$work/target" --bin loader

exec "$work/target/$host/release/loader" "$work/corpus" "$seeds" -dict="$work/words.dict" -artifact_prefix="$work/" \
  -max_total_time="$seconds" ${FUZZ_ARGUMENTS:-} -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1
