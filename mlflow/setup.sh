#!/usr/bin/env bash
# Writes the settings of a server with passwords of its own: setup.sh FOLDER [HOST-NAME]
# FOLDER/server.env is for server.sh, FOLDER/auth.ini for MLflow; both are for the owner's eyes.
set -euo pipefail
folder="${1:?usage: setup.sh FOLDER [HOST-NAME]}"
name="${2:-$(hostname)}"
if [[ -e "$folder/server.env" || -e "$folder/auth.ini" ]]; then
  echo "$folder has settings already: move them away first" >&2
  exit 2
fi
umask 077
mkdir -p "$folder/artifacts"
folder="$(cd "$folder" && pwd)"
secret() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
uri="${BACKEND_STORE_URI:-postgresql+psycopg://mlflow@localhost/mlflow}"
cat >"$folder/auth.ini" <<INI
[mlflow]
default_permission = EDIT
database_uri = ${AUTH_DATABASE_URI:-sqlite:///$folder/auth.db}
admin_username = admin
admin_password = $(secret)
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
cat >"$folder/server.env" <<ENV
BACKEND_STORE_URI=$uri
PGPASSWORD=${PGPASSWORD:-}
ARTIFACTS_DESTINATION=$folder/artifacts
HOST=${HOST:-0.0.0.0}
PORT=${PORT:-5000}
ALLOWED_HOSTS=localhost:${PORT:-5000},127.0.0.1:${PORT:-5000},$name:${PORT:-5000}
AUTH_CONFIG=$folder/auth.ini
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret)
MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
MLFLOW_DISABLE_TELEMETRY=true
ENV
cat <<SAID
wrote $folder/server.env and $folder/auth.ini (user admin, its password is in auth.ini)
start it:       mlflow/server.sh $folder/server.env
on each driver: export MLFLOW_TRACKING_URI=http://$name:${PORT:-5000}
                export MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=...
SAID
