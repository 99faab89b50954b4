#!/usr/bin/env bash
# Keeps a server's runs, users and artifacts in a folder: backup.sh SERVER.ENV FOLDER
# The server may go on; a run that is being written is there as it was at one moment.
set -euo pipefail
settings="${1:?usage: backup.sh SERVER.ENV FOLDER}"
folder="${2:?usage: backup.sh SERVER.ENV FOLDER}"
set -a
# shellcheck source=/dev/null
source "$settings"
set +a
umask 077
copy() { # of a SQLite file, as it is at one moment, whoever writes to it
  [[ -f "$1" ]] || { echo "there is no $1" >&2; exit 2; }
  python -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))' \
    "$1" "$2"
}
if [[ -e "$folder" ]]; then
  echo "$folder is there already: name a new one" >&2
  exit 2
fi
work="$folder.part"
rm -rf "$work"
mkdir -p "$work"
case "$BACKEND_STORE_URI" in
  postgresql*) pg_dump --format=custom --dbname="${BACKEND_STORE_URI/+psycopg/}" --file="$work/runs.dump" ;;
  sqlite:///*) copy "${BACKEND_STORE_URI#sqlite:///}" "$work/runs.db" ;;
  *) echo "BACKEND_STORE_URI is neither PostgreSQL nor SQLite" >&2; exit 2 ;;
esac
if [[ -n "${AUTH_CONFIG:-}" ]]; then
  cp "$AUTH_CONFIG" "$work/auth.ini"
  users="$(sed -n 's/^database_uri *= *//p' "$AUTH_CONFIG")"
  case "$users" in
    sqlite:///*) [[ ! -f "${users#sqlite:///}" ]] || copy "${users#sqlite:///}" "$work/auth.db" ;;
    postgresql*) pg_dump --format=custom --dbname="${users/+psycopg/}" --file="$work/users.dump" ;;
  esac
fi
if [[ "$ARTIFACTS_DESTINATION" == /* && -d "$ARTIFACTS_DESTINATION" ]]; then
  tar -C "$ARTIFACTS_DESTINATION" -cf "$work/artifacts.tar" .
fi
mv "$work" "$folder"
echo "kept in $folder"
