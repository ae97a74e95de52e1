#!/usr/bin/env bash
# Runs the shell blocks of a page that are marked `<!-- run -->`, in order, in one shell, as a reader would.
#
#   tests/run-docs.sh README.md
set -euo pipefail
page=${1:?"which page? as in: tests/run-docs.sh README.md"}
script=$(mktemp)
trap 'rm -f "$script"' EXIT
awk '
    /^<!-- run -->$/ { marked = 1; next }
    /^```sh$/ && marked { inside = 1; marked = 0; next }
    /^```$/ && inside { inside = 0; print ""; next }
    inside { print }
' "$page" >"$script"
[ -s "$script" ] || { echo "no block of $page is marked <!-- run -->" >&2; exit 1; }
cd "$(dirname "$0")/.."
exec bash -euo pipefail -x "$script" </dev/null
