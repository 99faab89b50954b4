#!/usr/bin/env bash
# Copies a SQLite ledger, also while it is written to: mlflow/backup.sh runs/mlflow.db COPY.db
set -euo pipefail
if [[ $# -ne 2 || ! -f "$1" || -e "$2" ]]; then
  echo "usage: $0 LEDGER.db COPY.db (the copy must not exist)" >&2
  exit 2
fi
python - "$1" "$2" <<'PY'
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as ledger, sqlite3.connect(sys.argv[2]) as copy:
    ledger.backup(copy)
PY
