#!/usr/bin/env bash
# Starts the ledger's server with the settings of server.env. Beyond this machine it listens only
# with passwords: AUTH_CONFIG names MLflow's file of them.
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
auth=()
if [[ -n "${AUTH_CONFIG:-}" ]]; then
  if [[ ! -f "$AUTH_CONFIG" || -z "${MLFLOW_FLASK_SERVER_SECRET_KEY:-}" ]]; then
    echo "AUTH_CONFIG is no file, or MLFLOW_FLASK_SERVER_SECRET_KEY is not set: run $here/setup.sh" >&2
    exit 2
  fi
  export MLFLOW_AUTH_CONFIG_PATH="$AUTH_CONFIG"
  auth=(--app-name basic-auth)
elif [[ "$HOST" != 127.* && "$HOST" != localhost && "$HOST" != ::1 ]]; then
  echo "HOST=$HOST is beyond this machine: set AUTH_CONFIG, which $here/setup.sh makes" >&2
  exit 2
fi
export MLFLOW_BACKEND_STORE_URI="$BACKEND_STORE_URI" # not an argument, which everybody here could see
exec python -m mlflow server "${auth[@]}" \
  --host "$HOST" --port "$PORT" --allowed-hosts "$ALLOWED_HOSTS" \
  --serve-artifacts --artifacts-destination "$ARTIFACTS_DESTINATION" \
  --workers "${WORKERS:-2}"
