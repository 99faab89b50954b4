#!/usr/bin/env bash
# Brings back what backup.sh kept, into an empty database and folder: restore.sh SERVER.ENV FOLDER
# The server must not run meanwhile.
set -euo pipefail
settings="${1:?usage: restore.sh SERVER.ENV FOLDER}"
folder="${2:?usage: restore.sh SERVER.ENV FOLDER}"
set -a
# shellcheck source=/dev/null
source "$settings"
set +a
umask 077
if [[ -d "$ARTIFACTS_DESTINATION" && -n "$(ls -A "$ARTIFACTS_DESTINATION")" ]]; then
  echo "$ARTIFACTS_DESTINATION is not empty: nothing is overwritten" >&2
  exit 2
fi
case "$BACKEND_STORE_URI" in
  postgresql*)
    pg_restore --exit-on-error --single-transaction --no-owner \
      --dbname="${BACKEND_STORE_URI/+psycopg/}" "$folder/runs.dump" ;;
  sqlite:///*)
    target="${BACKEND_STORE_URI#sqlite:///}"
    if [[ -e "$target" ]]; then
      echo "$target is there already: nothing is overwritten" >&2
      exit 2
    fi
    cp "$folder/runs.db" "$target" ;;
esac
if [[ -n "${AUTH_CONFIG:-}" ]]; then
  users="$(sed -n 's/^database_uri *= *//p' "$AUTH_CONFIG")"
  case "$users" in
    sqlite:///*) [[ ! -f "$folder/auth.db" ]] || cp "$folder/auth.db" "${users#sqlite:///}" ;;
    postgresql*) pg_restore --exit-on-error --single-transaction --no-owner \
      --dbname="${users/+psycopg/}" "$folder/users.dump" ;;
  esac
fi
if [[ -f "$folder/artifacts.tar" ]]; then
  mkdir -p "$ARTIFACTS_DESTINATION"
  tar -C "$ARTIFACTS_DESTINATION" -xf "$folder/artifacts.tar"
fi
echo "restored from $folder; start it: mlflow/server.sh $settings"
