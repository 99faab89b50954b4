#!/usr/bin/env bash
# Starts the ledger's server with the settings of server.env.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
settings="${1:-$here/server.env}"
if [[ ! -f "$settings" ]]; then
  echo "no $settings: copy $here/server.env.example to it and fill it in" >&2
  exit 2
fi
set -a
# shellcheck source=/dev/null
source "$settings"
set +a
exec mlflow server \
  --backend-store-uri "$BACKEND_STORE_URI" \
  --serve-artifacts --artifacts-destination "$ARTIFACTS_DESTINATION" \
  --host "$HOST" --port "$PORT" --allowed-hosts "$ALLOWED_HOSTS"
