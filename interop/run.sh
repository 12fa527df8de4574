#!/bin/sh
# Builds the peers and runs the interop matrix; its arguments are the matrix's (see `--help`).
# Nothing is written outside target/ and interop/js/node_modules, and nothing talks beyond loopback
# but the package managers, for what they do not have yet.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/interop"
case $target in /*) ;; *) target=$PWD/$target ;; esac

cargo build --release --locked --example interop_peer --example interop_matrix

if command -v go >/dev/null; then
    (cd interop/go && go build -o "$target/interop/go-peer" ./cmd/peer)
    INTEROP_GO=$target/interop/go-peer
    export INTEROP_GO
else
    echo "no go: its rows will fail unless --peers leaves them out" >&2
fi

if command -v node >/dev/null; then
    # Not again if what is there is newer than what is asked for.
    if ! [ interop/js/node_modules/.package-lock.json -nt interop/js/package-lock.json ]; then
        (cd interop/js && npm ci --silent --no-audit --no-fund >&2)
    fi
    INTEROP_JS=$PWD/interop/js/peer.js
    export INTEROP_JS
else
    echo "no node: its rows will fail unless --peers leaves them out" >&2
fi

exec "$target/release/examples/interop_matrix" --logs "$target/interop/logs" "$@"
