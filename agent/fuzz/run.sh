#!/bin/bash
# Runs one fuzz target for some minutes, with a stable Rust: libFuzzer needs no more than the compiler's coverage marks.
# Everything it makes lies under target/fuzz of the repository. The first input that breaks a promise ends it; it belongs
# into seeds/TARGET once it is mended, where the agent's own tests try it for ever.
# usage: run.sh TARGET [MINUTES]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${FUZZ_DIR:-$root/target/fuzz}
target=${1:-}
seconds=$((${2:-60} * 60))
if [ ! -f "$here/src/$target.rs" ]; then
  printf 'no fuzz target %s; known: loader %s\n' "${target:-of no name}" "$(cd "$here/src" && echo *.rs | sed 's/\.rs//g')" >&2
  exit 1
fi
host=$(rustc -vV | sed -n 's/^host: //p')
corpus=$work/corpus-$target
mkdir -p "$corpus"

cd "$here"
marks='-Cpasses=sancov-module'
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  marks+=" -Cllvm-args=-sanitizer-coverage-$option"
done
RUSTFLAGS="$marks -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1 --cfg fuzzing" CARGO_PROFILE_RELEASE_LTO=false \
  "${CARGO:-cargo}" build --locked --release --target "$host" --target-dir "$work/target" --bin "$target"

exec "$work/target/$host/release/$target" "$corpus" "$here/seeds/$target" -dict="$here/words.txt" \
  -artifact_prefix="$work/$target-" -max_total_time="$seconds" ${FUZZ_ARGUMENTS:-} -timeout=10 -rss_limit_mb=2048 \
  -max_len=16384 -print_final_stats=1
