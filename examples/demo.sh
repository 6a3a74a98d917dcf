#!/bin/sh
# The whole way, as `make demo` runs it: fetch, ask, fine-tune, ask again, serve, call, compare.
set -eu
step() { printf '\n==> %s\n' "$*" >&2; "$@"; }
run=${1:-runs/llama-driver}
question="Who are you?"

step arriero download smollm2-135m-instruct
step arriero ask "$question"
step arriero train examples/data/llama-driver.json --output "$run" --config examples/llama-driver.yaml --resume
step arriero ask "$question" --adapter "$run"

printf '\n==> arriero serve --adapter tomas=%s --port 0\n' "$run" >&2
log=$(mktemp)
arriero serve --adapter "tomas=$run" --port 0 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
until address=$(grep '^serving ' "$log" | grep -o 'http://[0-9.:]*'); do  # it listens earlier than it serves
    kill -0 "$server" || { cat "$log" >&2; exit 1; }
    sleep 0.2
done
cat "$log" >&2
step python examples/client.py "$question" "$address"
kill -INT "$server"
wait "$server" || [ $? -eq 130 ]

step python examples/compare.py "$run" examples/data/llama-driver.heldout.json
printf '\nAll of it worked. Talk to Tomás: .venv/bin/arriero chat --adapter %s\n' "$run" >&2
