#!/usr/bin/env bash
# Ask a running server (make serve) with curl: a query, a cut input, a mistake.
set -euo pipefail
url=${1:-http://localhost:8000}

ask() { curl -s "$url/v1/embeddings" -H 'content-type: application/json' -d "$1" | cut -c -100; echo; }

ask '{"model": "demo", "input": "What is an inlay?", "input_type": "query"}'
ask '{"model": "demo", "input": ["cut me if you must"], "truncate": "end"}'
ask '{"model": "demo", "input": ["fine", ""]}'
curl -s "$url/ready"; echo
